//! What is known of each rule, by its number.

use std::sync::Arc;

use super::RuleInfo;

/// Rules that are one piece of memory, which tables share where all of it is the same
const PIECE: usize = 64;

/// Rules by their numbers; none at a number that no rule has now.
#[derive(Clone, Default, Debug)]
pub(super) struct RuleInfos {
    pieces: Vec<Arc<[Option<RuleInfo>; PIECE]>>,
    len: usize,
}

impl RuleInfos {
    /// One more than the largest number
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, number: u32) -> Option<&RuleInfo> {
        let at = number as usize;
        self.pieces.get(at / PIECE)?.get(at % PIECE)?.as_ref()
    }

    /// A number that no rule has had
    pub(super) fn add(&mut self) -> u32 {
        if self.len == self.pieces.len() * PIECE {
            self.pieces.push(Arc::new([const { None }; PIECE]));
        }
        self.len += 1;
        (self.len - 1) as u32
    }

    /// Says what has this number.
    pub(super) fn set(&mut self, number: u32, info: Option<RuleInfo>) {
        let at = number as usize;
        if let Some(piece) = self.pieces.get_mut(at / PIECE) {
            Arc::make_mut(piece)[at % PIECE] = info;
        }
    }
}
