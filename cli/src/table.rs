//! Columns as kubectl aligns them: as wide as the widest cell, three spaces apart, nothing after the last.

const GAP: usize = 3;

/// Lines of a table, each ending with a newline. `indent` goes before every line.
pub fn render(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + GAP - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A row from anything that can be text.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = render("  ", &[row(["NAME", "AGE"]), row(["longer-name", "1s"]), row(["é", ""])]);
        assert_eq!(text, "  NAME          AGE\n  longer-name   1s\n  é\n");
    }
}
