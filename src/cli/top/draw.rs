//! The screen, drawn. Nothing is told by colour alone.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState, Wrap},
};

use super::{
    rows::{Column, View, age, short},
    screen::Screen,
};

/// Columns that are left out of screens narrower than this
const WIDE: u16 = 120;

const KEYS: &str = "Enter go in  Esc back  Tab view  s/r sort  / filter  p pause  ? help  q quit";

const HELP: &[&str] = &[
    "Tab, 1 to 5   what is shown",
    "up, down      choose a row (also j and k, page keys, Home, End)",
    "Enter         network -> its endpoints; endpoint -> its flows;",
    "              flow, drop, rule -> all that is known, with the rule's line",
    "Esc           back",
    "s             sort by the next column",
    "r             the other way round",
    "/             only rows that contain a text; Esc shows all again",
    "p             pause, until p is pressed again or another view is chosen",
    "q             quit",
];

struct Styles(bool);

impl Styles {
    fn of(&self, color: Color) -> Style {
        if self.0 { Style::new().fg(color) } else { Style::new() }
    }

    fn bad(&self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let notice = notice(screen);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(u16::from(notice.is_some())),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let [head, told, tabs, table, foot] = areas.areas(frame.area());
    let styles = Styles(screen.color);
    frame.render_widget(header(screen, &styles), head);
    if let Some(notice) = notice {
        frame.render_widget(Paragraph::new(notice).style(styles.bad()), told);
    }
    frame.render_widget(views(screen, &styles), tabs);
    rows(frame, screen, table);
    frame.render_widget(footer(screen), foot);
    if let Some(row) = &screen.detail {
        popup(frame, screen.view().title(), row.about.iter().map(|line| Line::raw(&**line)).collect());
    } else if screen.help {
        popup(frame, "Keys", HELP.iter().copied().map(Line::raw).collect());
    }
}

/// What must not be overlooked.
fn notice(screen: &Screen) -> Option<String> {
    if let Some(failure) = &screen.failure {
        let first = failure.lines().next().unwrap_or_default();
        return Some(format!("STALE: {first}"));
    }
    let status = screen.status.as_ref()?;
    let (first, rest) = status.problems.split_first()?;
    let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
    Some(format!("PROBLEM: {first}{more}"))
}

fn header<'a>(screen: &'a Screen, styles: &Styles) -> Text<'a> {
    let Some(status) = &screen.status else { return Text::raw("no answer yet") };
    let ready = if status.ready {
        Span::styled("ready", styles.of(Color::Green))
    } else {
        Span::styled("NOT READY", styles.bad())
    };
    // Why it is this dataplane is told by `status`.
    let dataplane = status.dataplane.split(' ').next().unwrap_or_default();
    let first = Line::from(vec![
        Span::styled(format!("eastgate {}", status.host), Modifier::BOLD),
        Span::raw("  "),
        ready,
        Span::raw(format!(
            "  up {}  {dataplane}  epoch {}  {} flows ({} unreplied)",
            age(status.uptime_s),
            status.epoch,
            short(status.flows.replied as f64 + status.flows.unreplied as f64),
            short(status.flows.unreplied as f64)
        )),
    ]);
    let Some([from_ports, to_ports, from_underlay, to_underlay, dropped]) =
        screen.traffic.map(|it| it.map(short))
    else {
        return Text::from(vec![first, Line::raw("rates come with the next look")]);
    };
    let second = Line::from(vec![
        Span::raw(format!(
            "ports {from_ports}/s in {to_ports}/s out  underlay {from_underlay}/s in {to_underlay}/s out  "
        )),
        Span::styled(
            format!("dropped {dropped}/s"),
            if dropped == "0" { Style::new() } else { styles.bad() },
        ),
    ]);
    Text::from(vec![first, second])
}

fn views<'a>(screen: &'a Screen, styles: &Styles) -> Line<'a> {
    let mut spans = Vec::new();
    for (number, view) in (1..).zip(View::ALL) {
        let name = format!("{number} {}", view.title());
        if view == screen.view() {
            let of = screen.of().map_or_else(String::new, |of| format!(" of {of}"));
            let style = styles.of(Color::Cyan).add_modifier(Modifier::BOLD);
            spans.push(Span::styled(format!("[{name}{of}] "), style));
        } else {
            spans.push(Span::raw(format!(" {name}  ")));
        }
    }
    Line::from(spans)
}

fn rows(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let columns: Vec<(usize, &Column)> = screen
        .view()
        .columns()
        .iter()
        .enumerate()
        .filter(|(_, column)| !column.wide || area.width >= WIDE)
        .collect();
    let widths = columns.iter().map(|(_, column)| {
        if column.width > 0 { Constraint::Length(column.width) } else { Constraint::Fill(1) }
    });
    let taken: u16 = columns.iter().map(|(_, column)| column.width + 1).sum();
    let shared = columns.iter().filter(|(_, column)| column.width == 0).count().max(1) as u16;
    let share = (area.width + 1).saturating_sub(taken) / shared;
    let fits = |column: &Column, text: String| {
        let width = usize::from(if column.width > 0 { column.width } else { share });
        if text.chars().count() <= width {
            return text;
        }
        text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
    };
    let aligned = |column: &Column, text: String| {
        let alignment = if column.number { Alignment::Right } else { Alignment::Left };
        Cell::from(Text::from(text).alignment(alignment))
    };
    let (by, largest_first) = screen.sort();
    let head = columns.iter().map(|(at, column)| {
        let mark = match (*at == by, largest_first) {
            (true, true) => "v",
            (true, false) => "^",
            (false, _) => "",
        };
        aligned(column, format!("{}{mark}", column.name))
    });
    let shown = screen.rows();
    let lines = shown.iter().map(|row| {
        Row::new(
            columns
                .iter()
                .filter_map(|(at, column)| Some(aligned(column, fits(column, row.cells.get(*at)?.shown())))),
        )
    });
    let table = Table::new(lines, widths)
        .header(Row::new(head).style(Modifier::BOLD))
        .row_highlight_style(Modifier::REVERSED)
        .column_spacing(1);
    let mut state = TableState::new().with_selected(screen.chosen(&shown));
    frame.render_stateful_widget(table, area, &mut state);
    if shown.is_empty() {
        let why = match (screen.answered, screen.text.is_empty()) {
            (false, _) => "asking the daemon",
            (true, true) => "nothing to show",
            (true, false) => "nothing contains that",
        };
        let [_, below] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        frame.render_widget(Paragraph::new(why), below);
    }
}

fn footer(screen: &Screen) -> Paragraph<'_> {
    if screen.typing || !screen.text.is_empty() {
        let cursor = if screen.typing { "_" } else { "" };
        return Paragraph::new(format!("/{}{cursor}", screen.text));
    }
    let mut text = String::new();
    if screen.is_paused() {
        text += "PAUSED  ";
    }
    if screen.more > 0 {
        text += &format!("{} more are not shown  ", short(screen.more as f64));
    }
    if screen.chatter > 0 {
        text += &format!("{} of chatter  ", short(screen.chatter as f64));
    }
    // At 80 columns there is room for one of both.
    Paragraph::new(if text.is_empty() { KEYS.to_owned() } else { text + "? help  q quit" })
}

fn popup(frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'_>>) {
    let area = frame.area();
    let width = area.width.saturating_sub(4).min(100);
    let inside = usize::from(width.saturating_sub(2).max(1));
    let heights = lines.iter().map(|line| wrapped(&line.to_string(), inside));
    let height = (heights.sum::<u16>() + 2).min(area.height);
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(format!(" {title} "));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), place);
}

/// How many lines a text takes that is broken between words, and in them where one is longer than a line.
fn wrapped(text: &str, width: usize) -> u16 {
    let (mut lines, mut used) = (1, 0);
    for word in text.split(' ').map(|word| word.chars().count()) {
        if used > 0 && used + 1 + word > width {
            (lines, used) = (lines + 1, 0);
        }
        used += word + usize::from(used > 0);
        while used > width {
            (lines, used) = (lines + 1, used - width);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn lines_are_counted_as_they_are_broken() {
        for (text, lines) in [("", 1), ("ab cd", 1), ("abc def", 2), ("a abcdefgh b", 3), ("abcdefghijk", 3)]
        {
            assert_eq!(wrapped(text, 5), lines, "{text}");
        }
    }
}
