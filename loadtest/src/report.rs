//! Figures for people.

/// Microseconds as milliseconds, with as many digits as mean something.
pub fn millis(us: u64) -> String {
    let ms = us as f64 / 1_000.0;
    if ms < 10.0 {
        format!("{ms:.2}")
    } else {
        format!("{ms:.0}")
    }
}

/// A table: the first column to the left, the others to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(String::len);
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(&head)
        .chain(rows)
        .map(|row: &Vec<String>| line(row, &widths))
        .collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("  {cell:>width$}"),
        });
    cells.chain(["\n".to_owned()]).collect()
}

/// The middle of a set of measurements, or 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["bare".to_owned(), "3.10".to_owned()],
            vec!["fsync".to_owned(), "12.00".to_owned()],
        ];
        assert_eq!(
            table(&["variant", "us"], &rows),
            "variant     us\nbare      3.10\nfsync    12.00\n"
        );
    }

    #[test]
    fn the_median_ignores_outliers() {
        assert_eq!(median(&[9.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
    }
}
