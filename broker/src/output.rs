//! Tables and values on standard output.

use serde::Serialize;

use crate::args::Output;

/// Prints rows under a head, or the value as JSON.
pub(crate) fn print<T: Serialize>(
    output: Output,
    value: &T,
    head: &[&str],
    rows: &[Vec<String>],
) -> anyhow::Result<()> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(value)?,
        Output::Text => table(head, rows),
    };
    Ok(strait_daemon::stdout::print(text.trim_end())?)
}

/// Columns as wide as their widest cell, two blanks apart.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Several values in one cell; `-` for none.
pub(crate) fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::{list, table};

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["blue".to_owned(), "Active".to_owned()],
            vec!["g".to_owned(), "-".to_owned()],
        ];
        assert_eq!(
            table(&["ID", "STATE"], &rows),
            "ID    STATE\nblue  Active\ng     -\n"
        );
        assert_eq!(list::<u8>(&[]), "-");
        assert_eq!(list(&[1, 2]), "1,2");
    }
}
