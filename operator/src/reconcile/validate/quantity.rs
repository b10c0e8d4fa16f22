//! Kubernetes quantities, as `resource.ParseQuantity` reads them.

use super::problems::Problems;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// The amount, in units of one (bytes, cores). Exact to 53 bits, which is more than any disk needs.
pub(super) fn amount(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.as_str();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => 10f64.powi(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

/// Checks a map of quantities, none of which may be negative.
pub(super) fn check(field: &str, quantities: &BTreeMap<String, Quantity>, problems: &mut Problems) {
    for (name, quantity) in quantities {
        if amount(quantity).is_none_or(|amount| amount < 0.0) {
            problems.add(format!("{field}[{name}]"), format!("{:?} must be a quantity such as 500m, 2 or 8Gi", quantity.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("8Gi", Some(8_589_934_592.0))]
    #[case("500m", Some(0.5))]
    #[case("1.5Ki", Some(1536.0))]
    #[case("2", Some(2.0))]
    #[case("1e3", Some(1000.0))]
    #[case("5E", Some(5e18))]
    #[case("-1", Some(-1.0))]
    #[case("8 Gi", None)]
    #[case("8GB", None)]
    #[case("Gi", None)]
    #[case("", None)]
    fn quantities_are_read_as_upstream_reads_them(#[case] text: &str, #[case] expected: Option<f64>) {
        assert_eq!(amount(&Quantity(text.to_owned())), expected);
    }
}
