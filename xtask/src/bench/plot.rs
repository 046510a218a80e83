//! The figures as pictures: every round is a dot, so that noise is seen and not averaged away.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::BASE;
use super::candidates::Name;
use super::report::{Report, Series, Spread, human};

const WIDTH: i32 = 900;
const ROW: i32 = 22;
const LEFT: i32 = 330;
const RIGHT: i32 = WIDTH - 110;
const TOP: i32 = 64;
const BOTTOM: i32 = 40;

/// Writes `overview.svg`, all ratios on one scale, and one picture of absolute figures for each metric.
pub(crate) fn write(report: &Report, folder: &Path) -> Result<Vec<PathBuf>> {
    let series = report.series();
    let mut written = Vec::new();
    let mut save = |chart: Chart, name: String| -> Result<()> {
        if !chart.rows.is_empty() {
            let path = folder.join(name).with_extension("svg");
            chart.draw(&path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
            written.push(path);
        }
        Ok(())
    };
    save(overview(&series), "overview".to_owned())?;
    for group in series.chunk_by(|one, next| (one.work, one.metric) == (next.work, next.metric)) {
        if let Some(first) = group.first() {
            let slug = format!("{}-{}", first.work, first.metric).to_lowercase().replace(' ', "-");
            save(absolute(first, group), slug)?;
        }
    }
    Ok(written)
}

/// A row of dots for each series, on one axis.
struct Chart {
    title: String,
    axis: String,
    scale: Scale,
    rows: Vec<Row>,
}

struct Row {
    label: String,
    name: Name,
    spread: Spread,
    dots: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Scale {
    /// From zero to this.
    Linear(f64),
    /// From the first to the second, both above zero.
    Logarithmic(f64, f64),
}

fn overview(series: &[Series]) -> Chart {
    let mut rows = Vec::new();
    for one in series {
        // What is better stands further right, whichever way the figure itself counts.
        let (Some(ratio), true) = (one.ratio, one.ratio.is_some_and(|ratio| ratio.min > 0.0)) else {
            continue;
        };
        let spread = if one.more_is_better {
            ratio
        } else {
            Spread { median: 1.0 / ratio.median, min: 1.0 / ratio.max, max: 1.0 / ratio.min }
        };
        let label = format!("{} {}: {}", one.work, one.metric, one.candidate);
        rows.push(Row { label, name: one.name, spread, dots: Vec::new() });
    }
    let least = rows.iter().map(|row| row.spread.min).fold(0.5, f64::min);
    let most = rows.iter().map(|row| row.spread.max).fold(2.0, f64::max);
    Chart {
        title: format!("Compared with {}, round by round", BASE.text()),
        axis: format!("times as good as {} (median; least to most)", BASE.text()),
        scale: Scale::Logarithmic(least / 1.1, most * 1.1),
        rows,
    }
}

fn absolute(first: &Series, group: &[Series]) -> Chart {
    let row = |one: &Series| Row {
        label: one.candidate.to_owned(),
        name: one.name,
        spread: one.absolute,
        dots: one.values.clone(),
    };
    let most = group.iter().map(|one| one.absolute.max).fold(f64::MIN_POSITIVE, f64::max);
    let better = if first.more_is_better { "more is better" } else { "less is better" };
    Chart {
        title: format!("{}: {}", first.work, first.metric),
        axis: format!("{} ({better})", first.unit),
        scale: Scale::Linear(most * 1.05),
        rows: group.iter().map(row).collect(),
    }
}

type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

impl Chart {
    fn draw(&self, path: &Path) -> Drawn<()> {
        let height = TOP + BOTTOM + ROW * self.rows.len() as i32;
        let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        text(&area, &self.title, (16, 22), 18, HPos::Left)?;
        text(&area, &self.axis, ((LEFT + RIGHT) / 2, height - 12), 13, HPos::Center)?;
        for mark in self.scale.marks() {
            let x = self.scale.place(mark);
            let bottom = height - BOTTOM + 4;
            area.draw(&PathElement::new(vec![(x, TOP - 12), (x, bottom)], RGBColor(225, 225, 225)))?;
            text(&area, &human(mark), (x, TOP - 20), 11, HPos::Center)?;
        }
        for (index, row) in self.rows.iter().enumerate() {
            self.draw_row(&area, row, TOP + ROW * index as i32 + ROW / 2)?;
        }
        area.present()?;
        Ok(())
    }

    fn draw_row(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, row: &Row, y: i32) -> Drawn<()> {
        let colour = colour(row.name);
        let place = |value| self.scale.place(value);
        text(area, &row.label, (LEFT - 12, y), 13, HPos::Right)?;
        area.draw(&PathElement::new(
            vec![(place(row.spread.min), y), (place(row.spread.max), y)],
            colour.stroke_width(2),
        ))?;
        for dot in &row.dots {
            area.draw(&Circle::new((place(*dot), y), 3, colour.mix(0.5).filled()))?;
        }
        let median = place(row.spread.median);
        area.draw(&Rectangle::new([(median - 2, y - 7), (median + 2, y + 7)], colour.filled()))?;
        text(area, &human(row.spread.median), (RIGHT + 12, y), 13, HPos::Left)
    }
}

impl Scale {
    fn place(self, value: f64) -> i32 {
        let share = match self {
            Self::Linear(most) => value / most,
            Self::Logarithmic(least, most) => (value / least).ln() / (most / least).ln(),
        };
        LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32
    }

    /// Values worth a line: five or so.
    fn marks(self) -> Vec<f64> {
        match self {
            Self::Linear(most) => {
                let rough = most / 5.0;
                let power = 10_f64.powf(rough.log10().floor());
                let step =
                    [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                (0..).map(|count| f64::from(count) * step).take_while(|mark| *mark <= most).collect()
            }
            Self::Logarithmic(least, most) => {
                let marks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
                marks.into_iter().filter(|mark| (least..=most).contains(mark)).collect()
            }
        }
    }
}

fn text(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    words: &str,
    at: (i32, i32),
    size: i32,
    side: HPos,
) -> Drawn<()> {
    let style = ("sans-serif", size).into_font().color(&BLACK).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

/// Colours that stay apart for colour-blind readers (Okabe and Ito).
fn colour(name: Name) -> RGBColor {
    match name {
        Name::Veth => RGBColor(86, 180, 233),
        Name::Plain => RGBColor(120, 120, 120),
        Name::Neutron => RGBColor(230, 159, 0),
        Name::Eastgate => RGBColor(0, 114, 178),
        Name::EastgateUserspace => RGBColor(0, 158, 115),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_put_their_ends_at_the_edges() {
        for (scale, least, most) in
            [(Scale::Linear(8.0), 0.0, 8.0), (Scale::Logarithmic(0.25, 4.0), 0.25, 4.0)]
        {
            assert_eq!((scale.place(least), scale.place(most)), (LEFT, RIGHT));
        }
        assert_eq!(Scale::Logarithmic(0.25, 4.0).place(1.0), (LEFT + RIGHT) / 2);
    }

    #[test]
    fn there_are_a_few_marks_on_every_scale() {
        for scale in
            [Scale::Linear(0.013), Scale::Linear(1.0), Scale::Linear(3.1e6), Scale::Logarithmic(0.4, 3.0)]
        {
            assert!((2..=11).contains(&scale.marks().len()), "{:?}", scale.marks());
        }
    }

    #[test]
    fn a_chart_is_written_as_svg() {
        let spread = Spread { median: 2.0, min: 1.0, max: 3.0 };
        let row = Row { label: "veth".into(), name: Name::Veth, spread, dots: vec![1.0, 2.0, 3.0] };
        let (title, axis) = ("a <title> & more".to_owned(), "/s".to_owned());
        let chart = Chart { title, axis, scale: Scale::Linear(3.2), rows: vec![row] };
        let path = std::env::temp_dir().join(format!("eastgate-plot-{}.svg", std::process::id()));
        chart.draw(&path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("a &lt;title&gt; &amp; more"));
    }
}
