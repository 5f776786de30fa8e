//! `Condition` for Python: what a condition on a message says, as far as that can be told natively.
//!
//! Made for each rule set from the steps of `routing/stage_steps.py`, asked by `plain` at the end of data. Steps of an unknown kind are open.

use gatepost_wire::{Order, Step, Test, Text};
use pyo3::prelude::*;

/// Adds the class.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Condition>()
}

/// What, name of a field, number, text.
type StepArg = (String, String, i64, String);

#[pyclass(module = "gatepost._core", frozen)]
pub struct Condition(pub gatepost_wire::Condition);

#[pymethods]
impl Condition {
    #[new]
    fn new(steps: Vec<StepArg>) -> Self {
        Self(gatepost_wire::Condition::new(steps.into_iter().map(step).collect()))
    }

    fn holds(&self, size: u64, header: &[u8]) -> Option<bool> {
        self.0.holds(size, header)
    }
}

fn step((what, name, number, part): StepArg) -> Step {
    let (folded, what) = match what.strip_prefix("lower ") {
        Some(what) => (true, what),
        None => (false, what.as_str()),
    };
    let test = match what {
        "!" => return Step::Not,
        "&&" => return Step::And,
        "||" => return Step::Or,
        "contains" => Test::Contains,
        "starts" => Test::Starts,
        "ends" => Test::Ends,
        "is" => Test::Is,
        "needs" => Test::Needs,
        other => return compared(other, name, number),
    };
    match (usize::try_from(number), number) {
        (Ok(at), _) => Step::Text(Text { name, at: Some(at), test, folded, part }),
        (Err(_), -1) => Step::Text(Text { name, at: None, test, folded, part }),
        _ => Step::Open,
    }
}

fn compared(what: &str, name: String, number: i64) -> Step {
    let order = match what.rsplit(' ').next() {
        Some("<") => Order::Less,
        Some("<=") => Order::LessOrEqual,
        Some("==") => Order::Equal,
        _ => return Step::Open,
    };
    match what.split(' ').next() {
        Some("size") => Step::Size(order, number),
        Some("count") => Step::Count(name, order, number),
        _ => Step::Open,
    }
}
