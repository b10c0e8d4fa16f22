//! Where the last records of a file begin.

use std::io::{self, Read, Seek, SeekFrom};

const BLOCK: u64 = 64 * 1024;

/// Offset at which the last `records` records begin. A record at the end without its newline does not count, and comes
/// after those that do. Blocking: reads backwards through the file, in blocks.
pub fn start_of_last(file: &mut (impl Read + Seek), records: u64) -> io::Result<u64> {
    let mut right = file.seek(SeekFrom::End(0))?;
    let mut newlines = 0;
    let mut block = Vec::new();
    while right > 0 {
        let left = right.saturating_sub(BLOCK);
        block.clear();
        file.seek(SeekFrom::Start(left))?;
        // Another process may cut the file short meanwhile; less is read then.
        file.by_ref().take(right - left).read_to_end(&mut block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            if newlines == records {
                return Ok(left + index as u64 + 1);
            }
            newlines += 1;
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::io::Cursor;

    #[rstest]
    #[case("", 3, "")]
    #[case("a\nb\nc\n", 0, "")]
    #[case("a\nb\nc\n", 1, "c\n")]
    #[case("a\nb\nc\n", 2, "b\nc\n")]
    #[case("a\nb\nc\n", 3, "a\nb\nc\n")]
    #[case("a\nb\nc\n", 9, "a\nb\nc\n")]
    #[case("a\nb\nc", 0, "c")]
    #[case("a\nb\nc", 1, "b\nc")]
    #[case("no newline", 1, "no newline")]
    fn finds_the_last_records(#[case] content: &str, #[case] records: u64, #[case] expected: &str) {
        let start = start_of_last(&mut Cursor::new(content), records).unwrap();
        assert_eq!(&content[usize::try_from(start).unwrap()..], expected);
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_reading_it_all(lines in proptest::collection::vec(0usize..100_000, 0..8), records in 0u64..10, open in proptest::bool::ANY) {
            let mut content = lines.iter().map(|length| "x".repeat(*length)).collect::<Vec<_>>().join("\n");
            if !open {
                content.push('\n');
            }
            let start = usize::try_from(start_of_last(&mut Cursor::new(&content), records).unwrap()).unwrap();
            let ended = content.matches('\n').count() as u64;
            let skipped = content[..start].matches('\n').count() as u64;
            proptest::prop_assert_eq!(skipped, ended.saturating_sub(records));
            proptest::prop_assert!(start == 0 || content.as_bytes()[start - 1] == b'\n');
        }
    }
}
