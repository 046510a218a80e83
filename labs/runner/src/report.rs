//! What a check found: rows of a table.

use std::fmt;

use serde::Serialize;

/// Everything that a check looked at.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The story's title
    pub title: String,
    /// One row for each expectation, pair of machines and family
    pub rows: Vec<Row>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The step of the story that it comes after
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The line of the story
    pub story: String,
    /// Who sent
    pub from: String,
    /// To whom
    pub to: String,
    /// What was sent
    pub what: String,
    /// What should have happened
    pub expected: String,
    /// What happened
    pub seen: String,
    /// Whether they are the same
    pub ok: bool,
}

impl Report {
    /// Whether everything was as expected. A report without rows is not: nothing was looked at.
    #[must_use]
    pub fn ok(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.ok)
    }
}

const HEADINGS: [&str; 7] = ["STORY", "FROM", "TO", "WHAT", "EXPECTED", "SEEN", ""];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells: Vec<[&str; 7]> = self.rows.iter().map(Row::cells).collect();
        let mut widths = HEADINGS.map(str::len);
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        writeln!(f, "{}\n", self.title)?;
        write_row(f, &widths, &HEADINGS)?;
        let mut step = &None;
        for (row, cells) in self.rows.iter().zip(&cells) {
            if row.step != *step {
                step = &row.step;
                writeln!(f, "-- {}", step.as_deref().unwrap_or_default())?;
            }
            write_row(f, &widths, cells)?;
        }
        let failed = self.rows.iter().filter(|row| !row.ok).count();
        writeln!(f, "\n{} checked, {failed} failed", self.rows.len())
    }
}

impl Row {
    fn cells(&self) -> [&str; 7] {
        let verdict = if self.ok { "ok" } else { "FAILED" };
        [&self.story, &self.from, &self.to, &self.what, &self.expected, &self.seen, verdict]
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, widths: &[usize; 7], cells: &[&str; 7]) -> fmt::Result {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line += &format!("{cell:<width$}  ");
    }
    writeln!(f, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_looked_at_is_no_success() {
        assert!(!Report::default().ok());
    }

    #[test]
    fn columns_line_up_and_steps_are_told() {
        let row =
            Row { story: "web reaches db".into(), from: "acme/web1".into(), ok: true, ..Row::default() };
        let later = Row { step: Some("alpha is gone".into()), ok: false, ..row.clone() };
        let report = Report { title: "t".into(), rows: vec![row, later] };
        let text = report.to_string();
        assert!(!report.ok());
        assert!(text.contains("\n-- alpha is gone\n"), "{text}");
        assert!(text.ends_with("2 checked, 1 failed\n"), "{text}");
        let columns: Vec<_> = text.lines().filter_map(|line| line.find("acme/web1")).collect();
        assert_eq!(columns, [16, 16]);
    }
}
