//! One record of a log file, in the runtime interface's form or in Docker's. Pure.

use jiff::Timestamp;
use serde::Deserialize;
use std::borrow::Cow;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// A record: a whole line of the container's output with its newline, or a fragment of one without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) at: Timestamp,
    /// The time as it was written, in its own zone.
    pub(super) at_text: Cow<'a, str>,
    pub(super) stream: Stream,
    pub(super) payload: Cow<'a, [u8]>,
}

/// How a file's records are written. A file has one form throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `<RFC 3339 time> <stdout|stderr> <tags> <payload>\n`; the first tag `P` marks a fragment.
    Cri,
    /// `{"log": …, "stream": …, "time": …}\n`
    DockerJson,
}

impl Format {
    /// The form that a file's first record has.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        [Self::Cri, Self::DockerJson].into_iter().find(|format| format.parse(line).is_some())
    }

    /// None when the line is not a record; such a line is skipped.
    pub(super) fn parse(self, line: &[u8]) -> Option<Record<'_>> {
        match self {
            Self::Cri => cri(line),
            Self::DockerJson => docker_json(line),
        }
    }
}

fn stream(name: &[u8]) -> Option<Stream> {
    match name {
        b"stdout" => Some(Stream::Stdout),
        b"stderr" => Some(Stream::Stderr),
        _ => None,
    }
}

fn cri(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at_text = std::str::from_utf8(parts.next()?).ok()?;
    let at = at_text.parse().ok()?;
    let stream = stream(parts.next()?)?;
    // More tags may come to be; the first alone says whether the record is partial.
    let partial = parts.next()?.split(|byte| *byte == b':').next() == Some(b"P");
    let payload = parts.next()?;
    let payload = if partial { payload.strip_suffix(b"\n").unwrap_or(payload) } else { payload };
    Some(Record { at, at_text: at_text.into(), stream, payload: payload.into() })
}

fn docker_json(line: &[u8]) -> Option<Record<'_>> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(default, borrow)]
        log: Cow<'a, str>,
        stream: Cow<'a, str>,
        time: String,
    }
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let at = line.time.parse().ok()?;
    let payload = match line.log {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    Some(Record { at, at_text: line.time.into(), stream: stream(line.stream.as_bytes())?, payload })
}

/// The time with exactly nine digits of a second and `Z` for UTC: timestamps in a log line up.
pub(super) fn nine_digits(at_text: &str) -> String {
    let (seconds, rest) = match at_text.split_once('.') {
        Some((seconds, rest)) => (seconds, rest),
        // `2026-01-02T03:04:05` is 19 bytes; the zone follows.
        None => match at_text.split_at_checked(19) {
            Some((seconds, zone)) => (seconds, zone),
            None => (at_text, ""),
        },
    };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let zone = match &rest[digits.len()..] {
        "+00:00" | "z" => "Z",
        zone => zone,
    };
    format!("{seconds}.{digits:0<9.9}{zone}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn record<'a>(at: &'a str, stream: Stream, payload: &'a str) -> Record<'a> {
        Record { at: at.parse().unwrap(), at_text: at.into(), stream, payload: payload.as_bytes().into() }
    }

    #[rstest]
    #[case("2026-01-02T03:04:05.1Z stdout F hello world\n", record("2026-01-02T03:04:05.1Z", Stream::Stdout, "hello world\n"))]
    #[case("2026-01-02T03:04:05+02:00 stderr P:x frag\n", record("2026-01-02T03:04:05+02:00", Stream::Stderr, "frag"))]
    #[case("2026-01-02T03:04:05Z stdout F \n", record("2026-01-02T03:04:05Z", Stream::Stdout, "\n"))]
    #[case("2026-01-02T03:04:05Z stdout NEW:P end", record("2026-01-02T03:04:05Z", Stream::Stdout, "end"))]
    fn records_of_cri_runtimes_are_read(#[case] line: &str, #[case] expected: Record<'_>) {
        assert_eq!(Format::Cri.parse(line.as_bytes()), Some(expected));
        assert_eq!(Format::of(line.as_bytes()), Some(Format::Cri));
    }

    #[rstest]
    #[case("")]
    #[case("\n")]
    #[case("2026-01-02T03:04:05Z\n")]
    #[case("2026-01-02T03:04:05Z stdin F x\n")]
    #[case("2026-01-02T03:04:05Z stdout\n")]
    #[case("2026-01-02T03:04:05Z stdout F\n")]
    #[case("yesterday stdout F x\n")]
    fn lines_that_are_no_records_are_skipped(#[case] line: &str) {
        assert_eq!(Format::of(line.as_bytes()), None);
    }

    #[test]
    fn records_of_docker_are_read() {
        let line = br#"{"log":"a \"b\"\n","stream":"stderr","time":"2026-01-02T03:04:05.000000001Z"}"#;
        assert_eq!(Format::of(line), Some(Format::DockerJson));
        assert_eq!(Format::DockerJson.parse(line), Some(record("2026-01-02T03:04:05.000000001Z", Stream::Stderr, "a \"b\"\n")));
    }

    #[rstest]
    #[case("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000000Z")]
    #[case("2026-01-02T03:04:05.12+02:00", "2026-01-02T03:04:05.120000000+02:00")]
    #[case("2026-01-02T03:04:05.1234567891Z", "2026-01-02T03:04:05.123456789Z")]
    #[case("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05.000000000Z")]
    fn timestamps_have_nine_digits(#[case] written: &str, #[case] expected: &str) {
        assert_eq!(nine_digits(written), expected);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_record_or_none(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200), text in ".{0,40}") {
            let _ = Format::of(&line);
            let _ = nine_digits(&text);
        }

        /// What a runtime writes is read back: any payload, a fragment without its newline.
        #[test]
        fn a_written_record_is_read_back(payload in proptest::collection::vec(proptest::num::u8::ANY, 0..300), partial in proptest::bool::ANY, stderr in proptest::bool::ANY) {
            let payload: Vec<u8> = payload.into_iter().filter(|byte| *byte != b'\n').collect();
            let (stream, name, tag) = (if stderr { Stream::Stderr } else { Stream::Stdout }, if stderr { "stderr" } else { "stdout" }, if partial { "P" } else { "F" });
            let line = [format!("2026-01-02T03:04:05.1Z {name} {tag} ").as_bytes(), &payload, b"\n"].concat();
            let record = Format::Cri.parse(&line).unwrap();
            let expected = if partial { payload } else { [&payload[..], b"\n"].concat() };
            proptest::prop_assert_eq!((record.stream, record.payload.as_ref()), (stream, &expected[..]));
        }

        #[test]
        fn almost_records_do_not_panic(time in "[-0-9T:.Z+]{0,40}", rest in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let line = [time.as_bytes(), b" stdout ", &rest].concat();
            if let Some(record) = Format::of(&line).and_then(|format| format.parse(&line)) {
                let _ = nine_digits(&record.at_text);
            }
        }
    }
}
