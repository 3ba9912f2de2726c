//! Medians.

use crate::bed::Offload;
use crate::course::{Row, Test};
use crate::peers::Driver;

/// What stands in a table: medians of all rounds.
pub(crate) struct Summary {
    figures: Vec<Figure>,
    /// Names, in the order of the table.
    pub(crate) drivers: Vec<String>,
}

/// One median.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    driver: String,
    offload: Offload,
    test: Test,
    pub(crate) value: f64,
    pub(crate) high: Option<f64>,
    pub(crate) cpu: Option<f64>,
    /// The least and the most of the values.
    pub(crate) range: [f64; 2],
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Summary {
    pub(crate) fn new(rows: &[Row], drivers: &[Driver]) -> Self {
        let mut figures: Vec<Figure> = Vec::new();
        for row in rows {
            let same = |figure: &Figure| {
                (&figure.driver, figure.offload, figure.test) == (&row.driver, row.offload, row.test)
            };
            if figures.iter().any(same) {
                continue;
            }
            let all: Vec<&Row> = rows
                .iter()
                .filter(|other| {
                    (&other.driver, other.offload, other.test) == (&row.driver, row.offload, row.test)
                })
                .collect();
            let values = || all.iter().map(|row| row.value);
            figures.push(Figure {
                driver: row.driver.clone(),
                offload: row.offload,
                test: row.test,
                value: median(values()).unwrap_or_default(),
                high: median(all.iter().filter_map(|row| row.high)),
                cpu: median(all.iter().filter_map(|row| row.cpu)),
                range: [values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max)],
            });
        }
        Self {
            figures,
            drivers: drivers.iter().map(|driver| driver.name.clone()).collect(),
        }
    }

    pub(crate) fn figure(&self, driver: &str, offload: Offload, test: Test) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.driver == driver && (figure.offload, figure.test) == (offload, test))
    }
}
