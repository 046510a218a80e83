//! One thing that is wrong, and where.

use super::Problem;
use crate::place::Place;

/// A problem and where it is.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// What is wrong.
    pub problem: Problem,
    /// What is underlined.
    pub at: Place,
    /// Another place that has to do with it, and what is there.
    pub also: Option<(Place, &'static str)>,
}

impl Diagnostic {
    /// A problem at one place.
    #[must_use]
    pub fn new(problem: Problem, at: Place) -> Self {
        Self { problem, at, also: None }
    }

    /// The same with a second place.
    #[must_use]
    pub fn and(self, at: Place, what: &'static str) -> Self {
        Self { also: Some((at, what)), ..self }
    }
}
