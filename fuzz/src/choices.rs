//! Reading an input as a sequence of choices.

use arbitrary::{Arbitrary, Unstructured};

/// What is left of an input.
#[derive(Debug)]
pub struct Choices<'a>(Unstructured<'a>);

impl<'a> Choices<'a> {
    /// All of an input.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self(Unstructured::new(input))
    }

    /// Whether the input is used up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value of this type; made of zeros behind the end.
    pub fn any<T: Arbitrary<'a> + Default>(&mut self) -> T {
        self.0.arbitrary().unwrap_or_default()
    }

    /// The next number, below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 | 1 => 0,
            bound => self.0.int_in_range(0..=bound - 1).unwrap_or_default(),
        }
    }

    /// One of `of`.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Whether something that happens once in `times` does.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 1 % times
    }

    /// Up to `len_max` bytes, as many as a choice says and as there are.
    pub fn bytes(&mut self, len_max: usize) -> &'a [u8] {
        let len = self.below(len_max + 1).min(self.0.len());
        self.0.bytes(len).unwrap_or_default()
    }

    /// All that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0.take_rest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_is_used_up_goes_on_with_zeros() {
        let mut choices = Choices::new(&[7, 9]);
        assert_eq!(choices.any::<u8>(), 7);
        assert_eq!(choices.below(5), 4);
        assert!(choices.is_empty());
        assert_eq!((choices.any::<u64>(), choices.below(5), choices.bytes(9)), (0, 0, &[][..]));
        assert!(!choices.once_in(3));
    }
}
