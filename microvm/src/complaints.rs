//! What is wrong with what a guest sends, told a few times: a guest can do it wrong without end, and others read the log.

use std::sync::atomic::{AtomicU8, Ordering};

/// How often one part of a machine may complain.
const MOST: u8 = 16;

/// Counts the complaints of one part.
#[derive(Debug, Default)]
pub struct Complaints(AtomicU8);

impl Complaints {
    /// Whether one more is told.
    pub fn one_more(&self) -> bool {
        let more = |told: u8| (told < MOST).then_some(told + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_end_to_complaints() {
        let complaints = Complaints::default();
        let told = (0..1000).filter(|_| complaints.one_more()).count();
        assert_eq!(told, usize::from(MOST));
    }
}
