//! Kubernetes quantities as numbers (`k8s.io/apimachinery/pkg/api/resource`).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

/// Billionths of the unit, the finest that a quantity can express; what is finer is rounded up. `None` if it is no
/// quantity.
pub fn nanos(quantity: &Quantity) -> Option<i128> {
    parse(&quantity.0)
}

/// Whole units (bytes, cores), rounded up as upstream's `Quantity.Value`. `None` if it is no quantity, or negative.
pub fn whole(quantity: &Quantity) -> Option<u64> {
    let nanos = nanos(quantity).filter(|nanos| *nanos >= 0)?;
    u64::try_from(nanos.div_euclid(NANO) + i128::from(nanos.rem_euclid(NANO) != 0)).ok()
}

fn parse(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (multiplier, divisor) = scale(suffix)?;
    let nanos = decimal_nanos(number)?;
    // What is finer than a billionth is rounded up, as upstream does.
    let scaled = nanos.checked_mul(multiplier)?;
    Some(scaled.div_euclid(divisor) + i128::from(scaled.rem_euclid(divisor) != 0))
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let power = |exponent: u32| 1i128.checked_shl(exponent);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (10i128.pow(6), 1),
        "G" => (10i128.pow(9), 1),
        "T" => (10i128.pow(12), 1),
        "P" => (10i128.pow(15), 1),
        "E" => (10i128.pow(18), 1),
        "Ki" => (power(10)?, 1),
        "Mi" => (power(20)?, 1),
        "Gi" => (power(30)?, 1),
        "Ti" => (power(40)?, 1),
        "Pi" => (power(50)?, 1),
        "Ei" => (power(60)?, 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let exponent: i32 = digits.parse().ok()?;
            let factor = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, factor) } else { (factor, 1) }
        }
    })
}

/// `[+-]digits[.digits]` in billionths; further digits are cut.
fn decimal_nanos(number: &str) -> Option<i128> {
    let (negative, number) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits =
        |text: &str| if text.is_empty() { Some(0) } else { text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())? };
    let whole: i128 = digits(whole)?;
    let fraction: i128 = digits(&format!("{fraction:0<9.9}"))?;
    let nanos = whole.checked_mul(NANO)?.checked_add(fraction)?;
    Some(if negative { -nanos } else { nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suffixes_scale() {
        let unit = NANO;
        for (text, expected) in [
            ("0", 0),
            ("2", 2 * unit),
            ("100m", unit / 10),
            ("1.5", unit * 3 / 2),
            (".5", unit / 2),
            ("5.", 5 * unit),
            ("1k", 1000 * unit),
            ("1Ki", 1024 * unit),
            ("1e3", 1000 * unit),
            ("1E3", 1000 * unit),
            ("1E", 10i128.pow(18) * unit),
            ("1n", 1),
            ("1e-9", 1),
            ("-3", -3 * unit),
            ("0.1n", 1),
            ("16Gi", (16i128 << 30) * unit),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "m", "1x", "1.2.3", "--1", "1 Gi", "Gi", ".", "1e", "1e99"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn whole_units_are_rounded_up() {
        for (text, expected) in [
            ("8Gi", Some(8_589_934_592)),
            ("500m", Some(1)),
            ("1.5Ki", Some(1536)),
            ("0", Some(0)),
            ("5E", Some(5_000_000_000_000_000_000)),
            ("-1", None),
            ("100E", None),
            ("8GB", None),
        ] {
            assert_eq!(whole(&Quantity(text.into())), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[-+.0-9eEnumkKMGTPi]{0,24}") {
            parse(&text);
        }

        #[test]
        fn milli_is_a_thousandth(value in 0u32..) {
            prop_assert_eq!(parse(&format!("{value}m")).map(|n| n * 1000), parse(&value.to_string()));
        }
    }
}
