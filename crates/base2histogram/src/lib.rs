//! Stands in for the published `base2histogram`, which openraft counts its batches with.
//!
//! # Why
//!
//! The published crate builds lookup tables for every resolution it knows when the first histogram is made: 26 MB, most
//! of a node's resident memory, for one histogram (entries per append) that nobody reads, because openraft's
//! `runtime-stats` is off here. openraft has no switch for it, so the root manifest patches the dependency with this.
//!
//! # Model
//!
//! Only what openraft names, written anew: [`Histogram`], [`PercentileStats`], [`AsciiChart`]. A value is counted in one of
//! 65 buckets by its number of significant bits, so a percentile is right within a factor of two. That is enough for
//! counts of entries, and 520 bytes.
//!
//! ```text
//!   value    0   1   2-3   4-7   8-15  …  2^63-
//!   bucket   0   1    2     3     4    …    64
//! ```
//!
//! The version is the release whose place it takes; a newer openraft that needs more of it fails to compile, not to run.

use std::fmt;
use std::marker::PhantomData;

/// One for zero and one for each number of significant bits.
const BUCKETS: usize = u64::BITS as usize + 1;

/// Counts of values by magnitude. The parameter is the published crate's, for sliding windows, which openraft has none of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    data: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

impl<T> Histogram<T> {
    /// Empty.
    #[must_use]
    pub fn new() -> Histogram<T> {
        Histogram { counts: [0; BUCKETS], data: PhantomData }
    }

    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `times` times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
    }

    /// Values counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The smallest value of the bucket below whose end the fraction `p` (0 to 1) of all values lies; 0 without values.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    pub fn percentile(&self, p: f64) -> u64 {
        let wanted = (self.total() as f64 * p.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return if bucket == 0 { 0 } else { 1 << (bucket - 1) };
            }
        }
        0
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.10),
            p50: self.percentile(0.50),
            p90: self.percentile(0.90),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// Percentiles of a [`Histogram`]; each field is named after the percentage of values below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "{samples} values, half below {p50}, 90 % {p90}, 99 % {p99}, 99.9 % {p99_9}")
    }
}

/// Several histograms, to be printed under each other.
#[derive(Debug, Clone)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> Default for AsciiChart<T> {
    fn default() -> AsciiChart<T> {
        AsciiChart::new()
    }
}

impl<T> AsciiChart<T> {
    /// Empty.
    #[must_use]
    pub fn new() -> AsciiChart<T> {
        AsciiChart { series: Vec::new() }
    }

    /// One more line.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "the published crate's name for it")]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> AsciiChart<T> {
        self.series.push((name.to_owned(), histogram));
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_a_factor_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        for value in 1..=1000 {
            histogram.record(value);
        }
        assert_eq!(histogram.total(), 1000);
        for (p, exact) in [(0.01, 10), (0.5, 500), (0.99, 990)] {
            let found = histogram.percentile(p);
            assert!(found <= exact && exact < 2 * found, "{p}: {found} for {exact}");
        }
    }

    #[test]
    fn the_ends_of_the_range_have_their_buckets() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(0);
        assert_eq!(histogram.percentile(1.0), 0);
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentile(1.0), 1 << 63);
        assert_eq!(histogram.percentile_stats().samples, 2);
    }
}
