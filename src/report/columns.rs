//! Columns of text.

/// Rows of cells as lines, columns as wide as their widest cell and `gap` apart; flush left where `is_left` says so of a column, else
/// flush right.
pub fn columns(rows: &[Vec<String>], gap: &str, is_left: impl Fn(usize) -> bool) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(c, (cell, &w))| if is_left(c) { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        text += cells.collect::<Vec<_>>().join(gap).trim_end();
        text.push('\n');
    }
    text
}
