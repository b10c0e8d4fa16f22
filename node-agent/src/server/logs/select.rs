//! Which records of a log a query selects: `PodLogOptions` decoded and validated as by a kubelet, and their application to
//! the records one by one. Pure.

use super::record::{Record, Stream, nine_digits};
use bytes::BytesMut;
use jiff::{SignedDuration, Timestamp};

/// What to send of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // the flags of the query, each apart from the others
pub(super) struct LogOptions {
    pub(super) follow: bool,
    /// The last terminated container of the name instead of the current one.
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    /// Only records at or after.
    pub(super) since: Option<Timestamp>,
    /// Begin so many records before the end; fragments count.
    pub(super) tail: Option<u64>,
    /// End after so many bytes, prefixes counted.
    pub(super) limit: Option<u64>,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionsError {
    /// A value is not of its type.
    #[error("the query cannot be decoded")]
    Undecodable,
    /// Values of the right type that may not be (`ValidatePodLogOptions`).
    #[error("the query is not valid")]
    Invalid,
}

impl LogOptions {
    pub(super) fn from_query(query: &str, now: Timestamp) -> Result<Self, OptionsError> {
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

/// Walks the records of one log in order.
pub(super) struct Emitter {
    options: LogOptions,
    /// Bytes that may still go out.
    left: u64,
    /// Records that may still be read, when only the last so many are wanted and nothing is followed.
    records_left: Option<u64>,
    /// Only the first fragment of a line gets a timestamp.
    at_line_start: bool,
    /// Whether the record in hand goes out: its continuation follows it.
    record_wanted: bool,
}

impl Emitter {
    pub(super) fn new(options: LogOptions) -> Self {
        let records_left = options.tail.filter(|_| !options.follow);
        Self { left: options.limit.unwrap_or(u64::MAX), records_left, at_line_start: true, record_wanted: false, options }
    }

    /// True when nothing more will go out, whatever follows.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 || self.records_left == Some(0)
    }

    pub(super) fn record(&mut self, record: &Record<'_>, out: &mut BytesMut) {
        if self.is_done() {
            return;
        }
        let stream_wanted = match record.stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        };
        self.record_wanted = stream_wanted && self.options.since.is_none_or(|since| record.at >= since);
        if self.record_wanted {
            if self.options.timestamps && self.at_line_start {
                self.put(nine_digits(&record.at_text).as_bytes(), out);
                self.put(b" ", out);
            }
            self.put(&record.payload, out);
        }
        self.records_left = self.records_left.map(|left| left - 1);
        self.at_line_start = record.payload.last().is_none_or(|last| *last == b'\n');
    }

    /// More of the payload of the last record, which was too long to be held as a whole.
    pub(super) fn continuation(&mut self, payload: &[u8], out: &mut BytesMut) {
        if self.record_wanted {
            self.put(payload, out);
        }
        self.at_line_start = payload.last().is_none_or(|last| *last == b'\n');
    }

    fn put(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let taken = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        out.extend_from_slice(&bytes[..taken]);
        self.left -= taken as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Format;
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
    fn options_are_decoded(#[case] query: &str, #[case] expected: LogOptions) {
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
    fn invalid_options_are_refused(#[case] query: &str, #[case] expected: OptionsError) {
        assert_eq!(LogOptions::from_query(query, now()), Err(expected));
    }

    const LOG: &[&str] = &[
        "2026-01-01T00:00:01Z stdout F one\n",
        "2026-01-01T00:00:02Z stderr F two\n",
        "2026-01-01T00:00:03Z stdout P thr\n",
        "2026-01-01T00:00:04Z stdout F ee\n",
    ];

    fn emitted(query: &str) -> String {
        let mut emitter = Emitter::new(LogOptions::from_query(query, jiff::Timestamp::now()).unwrap());
        let mut out = BytesMut::new();
        for line in LOG {
            emitter.record(&Format::Cri.parse(line.as_bytes()).unwrap(), &mut out);
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn fragments_are_joined() {
        assert_eq!(emitted(""), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_line_has_one_timestamp() {
        let at = |second: u8| format!("2026-01-01T00:00:0{second}.000000000Z");
        assert_eq!(emitted("timestamps=true"), format!("{} one\n{} two\n{} three\n", at(1), at(2), at(3)));
    }

    #[test]
    fn older_records_are_dropped_and_equal_ones_kept() {
        assert_eq!(emitted("sinceTime=2026-01-01T00:00:02Z"), "two\nthree\n");
    }

    #[test]
    fn the_limit_cuts_within_a_line_and_counts_timestamps() {
        assert_eq!(emitted("limitBytes=6"), "one\ntw");
        assert_eq!(emitted("limitBytes=6&timestamps=true"), "2026-0");
    }

    #[test]
    fn bytes_of_a_stream_not_asked_for_do_not_count() {
        assert_eq!(emitted("stream=Stderr&limitBytes=4"), "two\n");
        assert_eq!(emitted("stream=Stdout"), "one\nthree\n");
    }

    #[test]
    fn a_tail_ends_after_its_records() {
        assert_eq!(emitted("tailLines=1"), "one\n");
        assert_eq!(emitted("tailLines=0"), "");
        assert_eq!(emitted("tailLines=1&follow=true"), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_continuation_is_selected_with_its_record() {
        let mut emitter = Emitter::new(LogOptions::from_query("stream=Stdout", jiff::Timestamp::now()).unwrap());
        let mut out = BytesMut::new();
        emitter.record(&Format::Cri.parse(LOG[1].as_bytes()).unwrap(), &mut out);
        emitter.continuation(b"hidden\n", &mut out);
        emitter.record(&Format::Cri.parse(LOG[0].as_bytes()).unwrap(), &mut out);
        emitter.continuation(b"seen\n", &mut out);
        assert_eq!(&out[..], b"one\nseen\n");
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_decoded_or_refused(query in "(follow|previous|timestamps|sinceTime|sinceSeconds|tail|tailLines|limitBytes|stream|[a-z&=%]{0,9})(=[-0-9a-zA-Z:%.+]{0,24})?(&\\PC{0,40})?") {
            let _ = LogOptions::from_query(&query, now());
        }
    }
}
