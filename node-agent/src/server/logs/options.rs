//! `PodLogOptions` as a query string, decoded and validated as a kubelet does. Pure.

use jiff::{SignedDuration, Timestamp};

/// What to send of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // the flags of the query, each apart from the others
pub struct LogOptions {
    pub follow: bool,
    /// The last terminated container of the name instead of the current one.
    pub previous: bool,
    pub timestamps: bool,
    /// Only records at or after.
    pub since: Option<Timestamp>,
    /// Begin so many records before the end; fragments count.
    pub tail: Option<u64>,
    /// End after so many bytes, prefixes counted.
    pub limit: Option<u64>,
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A value is not of its type.
    #[error("the query cannot be decoded")]
    Undecodable,
    /// Values of the right type that may not be (`ValidatePodLogOptions`).
    #[error("the query is not valid")]
    Invalid,
}

impl LogOptions {
    pub fn from_query(query: &str, now: Timestamp) -> Result<Self, OptionsError> {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let first = |key: &str| pairs.iter().find(|(held, _)| held == key).map(|(_, value)| value.as_ref());

        // `tail` is the parameter of old clients; `all` means none.
        let tail = match first("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(tail) => number(Some(tail))?,
            None => number(first("tailLines"))?,
        };
        let limit = number(first("limitBytes"))?;
        let since_seconds = number(first("sinceSeconds"))?;
        let since_time = match first("sinceTime") {
            None | Some("" | "null") => None,
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| OptionsError::Undecodable)?),
        };
        let stream = first("stream").unwrap_or("All");

        if tail.is_some_and(|tail| tail < 0)
            || limit.is_some_and(|limit| limit < 1)
            || since_seconds.is_some_and(|seconds| seconds < 1)
            || (since_seconds.is_some() && since_time.is_some())
            || !["All", "Stdout", "Stderr"].contains(&stream)
            || (stream != "All" && tail.is_some())
        {
            return Err(OptionsError::Invalid);
        }
        let since = match since_seconds {
            // Further back than time reaches is everything.
            Some(seconds) => Some(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)),
            None => since_time,
        };
        Ok(Self {
            follow: flag(first("follow")),
            previous: flag(first("previous")),
            timestamps: flag(first("timestamps")),
            since,
            tail: tail.map(i64::unsigned_abs),
            limit: limit.map(i64::unsigned_abs),
            stdout: stream != "Stderr",
            stderr: stream != "Stdout",
        })
    }
}

/// A boolean of a Kubernetes query: there and neither `0` nor `false`, so the empty value is true.
fn flag(value: Option<&str>) -> bool {
    value.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}

fn number(value: Option<&str>) -> Result<Option<i64>, OptionsError> {
    value.map(str::parse).transpose().map_err(|_| OptionsError::Undecodable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn all() -> LogOptions {
        LogOptions { follow: false, previous: false, timestamps: false, since: None, tail: None, limit: None, stdout: true, stderr: true }
    }

    #[rstest]
    #[case("", all())]
    #[case("unknown=1&insecureSkipTLSVerifyBackend=true", all())]
    #[case("follow=true&previous=1&timestamps=", LogOptions { follow: true, previous: true, timestamps: true, ..all() })]
    #[case("follow=false&previous=0&timestamps=FALSE", all())]
    #[case("tailLines=0", LogOptions { tail: Some(0), ..all() })]
    #[case("tailLines=3&tail=all", all())]
    #[case("tailLines=3&tail=7", LogOptions { tail: Some(7), ..all() })]
    #[case("limitBytes=1", LogOptions { limit: Some(1), ..all() })]
    #[case("sinceSeconds=5", LogOptions { since: Some("2026-01-02T03:04:00Z".parse().unwrap()), ..all() })]
    #[case("sinceSeconds=9223372036854775807", LogOptions { since: Some(Timestamp::MIN), ..all() })]
    #[case("sinceTime=2026-01-02T04%3A04%3A05%2B01%3A00", LogOptions { since: Some(now()), ..all() })]
    #[case("stream=Stderr", LogOptions { stdout: false, ..all() })]
    #[case("stream=All&tailLines=1", LogOptions { tail: Some(1), ..all() })]
    fn decodes(#[case] query: &str, #[case] expected: LogOptions) {
        assert_eq!(LogOptions::from_query(query, now()), Ok(expected));
    }

    #[rstest]
    #[case("tailLines=x", OptionsError::Undecodable)]
    #[case("limitBytes=", OptionsError::Undecodable)]
    #[case("sinceTime=yesterday", OptionsError::Undecodable)]
    #[case("tailLines=-1", OptionsError::Invalid)]
    #[case("limitBytes=0", OptionsError::Invalid)]
    #[case("sinceSeconds=0", OptionsError::Invalid)]
    #[case("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", OptionsError::Invalid)]
    #[case("stream=Both", OptionsError::Invalid)]
    #[case("stream=Stdout&tailLines=1", OptionsError::Invalid)]
    fn refuses(#[case] query: &str, #[case] expected: OptionsError) {
        assert_eq!(LogOptions::from_query(query, now()), Err(expected));
    }
}
