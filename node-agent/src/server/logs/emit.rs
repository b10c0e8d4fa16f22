//! What of a log's records goes out: since, streams, timestamps and the limit of bytes. Pure.

use super::options::LogOptions;
use super::record::{Record, Stream, nine_digits};
use bytes::BytesMut;

/// Walks the records of one log in order.
pub struct Emitter {
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
    pub fn new(options: LogOptions) -> Self {
        let records_left = options.tail.filter(|_| !options.follow);
        Self { left: options.limit.unwrap_or(u64::MAX), records_left, at_line_start: true, record_wanted: false, options }
    }

    /// True when nothing more will go out, whatever follows.
    pub fn is_done(&self) -> bool {
        self.left == 0 || self.records_left == Some(0)
    }

    pub fn record(&mut self, record: &Record<'_>, out: &mut BytesMut) {
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
    pub fn continuation(&mut self, payload: &[u8], out: &mut BytesMut) {
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
    use super::*;
    use crate::server::logs::record::Format;

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
    fn joins_fragments() {
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
    fn a_continuation_goes_where_its_record_went() {
        let mut emitter = Emitter::new(LogOptions::from_query("stream=Stdout", jiff::Timestamp::now()).unwrap());
        let mut out = BytesMut::new();
        emitter.record(&Format::Cri.parse(LOG[1].as_bytes()).unwrap(), &mut out);
        emitter.continuation(b"hidden\n", &mut out);
        emitter.record(&Format::Cri.parse(LOG[0].as_bytes()).unwrap(), &mut out);
        emitter.continuation(b"seen\n", &mut out);
        assert_eq!(&out[..], b"one\nseen\n");
    }
}
