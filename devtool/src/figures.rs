//! The bench's figures, as people see them: a plot of those that are held to a bar, and README's table of them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;

use crate::readme::{Machine, results, write_table};

/// The name of README's table.
const TABLE: &str = "figures";

const WIDTH: u32 = 900;
const ROW: u32 = 34;
const HEAD: u32 = 58;
const FOOT: u32 = 34;
/// Where the names end and the plot begins.
const NAMES: i32 = 400;
const RIGHT: i32 = 120;
const MET: RGBColor = RGBColor(46, 125, 80);
const MISSED: RGBColor = RGBColor(190, 60, 50);
const INK: RGBColor = RGBColor(60, 60, 60);
const FAINT: RGBColor = RGBColor(205, 205, 205);

/// From what, into what.
#[derive(Debug)]
pub(crate) struct Figures {
    /// What the bench wrote
    pub(crate) results: PathBuf,
    /// The plot to write
    pub(crate) plot: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Results {
    machine: Machine,
    figures: Vec<Figure>,
}

#[derive(Clone, Debug, Deserialize)]
struct Figure {
    name: String,
    value: f64,
    unit: String,
    bar: Option<Bar>,
}

#[derive(Clone, Debug, Deserialize)]
struct Bar {
    is: String,
    value: f64,
    met: bool,
}

impl Figures {
    pub(crate) fn run(&self) -> Result<()> {
        let results: Results = results(&self.results)?;
        let mut plot = String::new();
        draw(&results, &mut plot).context("draw the figures")?;
        fs::write(&self.plot, plot).with_context(|| format!("write {}", self.plot.display()))?;
        write_table(TABLE, &table(&results))
    }
}

/// The figures that are held to a bar. A name that begins with an ellipsis belongs to the last that does not.
fn held(results: &Results) -> Vec<(String, &Figure, &Bar)> {
    let mut of = "";
    let mut held = Vec::new();
    for figure in &results.figures {
        let name = match figure.name.strip_prefix("… ") {
            Some(rest) => format!("{of}: {rest}"),
            None => {
                of = figure.name.split(',').next().unwrap_or_default();
                figure.name.clone()
            }
        };
        held.extend(figure.bar.as_ref().map(|bar| (name, figure, bar)));
    }
    held
}

fn table(results: &Results) -> String {
    let mut table = "| figure | measured | bar | |\n|---|---|---|---|\n".to_owned();
    for (name, figure, bar) in held(results) {
        let verdict = if bar.met { "met" } else { "**missed**" };
        table += &format!(
            "| {name} | {} {} | {} {} | {verdict} |\n",
            round(figure.value),
            figure.unit,
            bar.is,
            round(bar.value)
        );
    }
    table + &results.machine.line()
}

/// Three digits that mean something.
fn round(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// How far on the good side of its bar a figure is: 1 is the bar itself, 2 twice as good.
fn goodness(figure: &Figure, bar: &Bar) -> f64 {
    if bar.is == "at least" { figure.value / bar.value } else { bar.value / figure.value }
}

/// Rows of one figure each, on a logarithmic scale, with the bar as a line through all of them.
fn draw(results: &Results, into: &mut String) -> Result<()> {
    let rows = held(results);
    let height = HEAD + FOOT + ROW * u32::try_from(rows.len())?;
    let area = SVGBackend::with_string(into, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let scale = Scale::of(rows.iter().map(|(_, figure, bar)| goodness(figure, bar)));
    let bottom = i32::try_from(height - FOOT)?;
    words(&area, "What the bench measured, beside its bars", (16, 24), 17, &INK, HPos::Left)?;
    for tick in scale.ticks() {
        let x = scale.at(tick);
        let colour = if tick == 1.0 { INK } else { FAINT };
        area.draw(&PathElement::new([(x, i32::try_from(HEAD)? - 8), (x, bottom)], colour))?;
        let label = if tick == 1.0 { "the bar".to_owned() } else { format!("{tick} ×") };
        words(&area, &label, (x, bottom + 14), 12, &INK, HPos::Center)?;
    }
    for (index, (name, figure, bar)) in rows.iter().enumerate() {
        let middle = i32::try_from(HEAD + ROW * u32::try_from(index)? + ROW / 2)?;
        row(&area, &scale, middle, (name, figure, bar))?;
    }
    area.present().context("finish the plot")
}

fn row(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    scale: &Scale,
    middle: i32,
    (name, figure, bar): (&str, &Figure, &Bar),
) -> Result<()> {
    let colour = if bar.met { MET } else { MISSED };
    let end = scale.at(goodness(figure, bar));
    let (from, to) = (end.min(scale.at(1.0)), end.max(scale.at(1.0)));
    area.draw(&Rectangle::new([(from, middle - 8), (to, middle + 8)], colour.filled()))?;
    words(area, name, (NAMES - 12, middle - 7), 13, &INK, HPos::Right)?;
    let told = format!("{} {}, {} {}", round(figure.value), figure.unit, bar.is, round(bar.value));
    words(area, &told, (NAMES - 12, middle + 8), 11, &colour, HPos::Right)?;
    words(area, if bar.met { "met" } else { "missed" }, (to + 6, middle), 12, &colour, HPos::Left)
}

fn words(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    text: &str,
    at: (i32, i32),
    size: i32,
    colour: &RGBColor,
    side: HPos,
) -> Result<()> {
    let style = ("sans-serif", size).into_font().color(colour).pos(Pos::new(side, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

/// From a ratio to a place, logarithmically; it holds the bar and every ratio.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    const TICKS: [f64; 9] = [0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

    fn of(ratios: impl Iterator<Item = f64>) -> Self {
        let (low, high) = ratios.fold((0.8_f64, 1.25_f64), |(low, high), ratio| (low.min(ratio), high.max(ratio)));
        Self { low: low / 1.1, high: high * 1.1 }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        Self::TICKS.into_iter().filter(|tick| (self.low..=self.high).contains(tick))
    }

    #[expect(clippy::cast_possible_truncation, reason = "a place on a picture")]
    fn at(&self, ratio: f64) -> i32 {
        let share = (ratio / self.low).ln() / (self.high / self.low).ln();
        let width = f64::from(i32::try_from(WIDTH).unwrap_or(i32::MAX) - NAMES - RIGHT);
        NAMES + (share.clamp(0.0, 1.0) * width) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readme::with_table;

    fn latest() -> Results {
        results(&crate::root().join("bench/results/latest.json")).unwrap()
    }

    #[test]
    fn fault_3_3_readme_shows_the_bars_and_which_are_missed() {
        let readme = fs::read_to_string(crate::root().join("README.md")).unwrap();
        assert!(
            with_table(&readme, TABLE, &table(&latest())).unwrap() == readme,
            "run ./dev pictures after ./dev bench"
        );
    }

    #[test]
    fn the_plot_is_that_of_the_latest_figures() {
        let (mut drawn, kept) = (String::new(), crate::root().join("docs/pictures/bench.svg"));
        draw(&latest(), &mut drawn).unwrap();
        assert!(fs::read_to_string(kept).unwrap() == drawn, "run ./dev pictures after ./dev bench");
    }

    #[test]
    fn a_figure_is_good_to_the_right_of_its_bar() {
        let figure = |value| Figure { name: String::new(), value, unit: String::new(), bar: None };
        let bar = |is: &str| Bar { is: is.to_owned(), value: 10.0, met: true };
        assert!(goodness(&figure(20.0), &bar("at least")) > 1.0 && goodness(&figure(20.0), &bar("at most")) < 1.0);
        let scale = Scale::of([0.1, 4.0].into_iter());
        assert!(scale.at(0.1) < scale.at(1.0) && scale.at(1.0) < scale.at(4.0));
    }
}
