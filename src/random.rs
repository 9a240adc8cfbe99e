//! Counter-based random streams: a value depends on (seed, purpose, step, index) alone, so neither resuming nor the number
//! of threads changes it.

/// What a stream is for; streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial parameters; `step` is a hash of the parameter's name.
    Initial = 1,
    /// The order of the training rows; `step` is the epoch.
    Shuffle = 2,
    /// Offsets of sampled negatives; `step` is the training step.
    Negatives = 3,
    /// Simulated logs.
    Simulate = 4,
    /// Inputs of op checks and tests.
    Check = 5,
    /// Dropped activations; `step` is the training step, a lane a layer. `shaders/dropout.wgsl` knows the number.
    Dropout = 6,
}

/// A stream of random words keyed by seed, purpose and step.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    key: [u32; 2],
    purpose: u32,
    step: u64,
}

impl Stream {
    /// The stream of `purpose` at `step` under `seed`.
    pub fn new(seed: u64, purpose: Purpose, step: u64) -> Self {
        Stream { key: [seed as u32, (seed >> 32) as u32], purpose: purpose as u32, step }
    }

    /// Stream number `lane`, below 2^24, of as many independent ones; the stream itself is number 0.
    pub fn lane(self, lane: u32) -> Self {
        Stream { purpose: self.purpose | lane << 8, ..self }
    }

    /// Four random words at `index` (indices up to 2^32 - 1, four words each).
    pub fn words(&self, index: u32) -> [u32; 4] {
        philox([index, self.purpose, self.step as u32, (self.step >> 32) as u32], self.key)
    }

    /// The random word at `index`.
    pub fn word(&self, index: u64) -> u32 {
        self.words((index / 4) as u32)[(index % 4) as usize]
    }

    /// A uniform number in [0, 1) with 24 bits.
    pub fn uniform(&self, index: u64) -> f32 {
        (self.word(index) >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// A standard normal number (Box-Muller, in f64).
    pub fn normal(&self, index: u64) -> f32 {
        let w = self.words((index / 2) as u32);
        let (a, b) = if index.is_multiple_of(2) { (w[0], w[1]) } else { (w[2], w[3]) };
        let u = (f64::from(a) + 0.5) / 4_294_967_296.0;
        let v = f64::from(b) / 4_294_967_296.0;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// A pseudo-random permutation of `0..n`: a Feistel network over the next power of four, walked until it lands inside (Black and
/// Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). It takes memory for some 16 sqrt(n) to 32 sqrt(n) bytes.
#[derive(Debug, Clone)]
pub struct Permutation {
    n: usize,
    half_bits: u32,
    /// A round's function of each half, round after round: there are so few halves that looking them up is a tenth of the work.
    rounds: Vec<u32>,
}

const ROUNDS: u32 = 4;

impl Permutation {
    /// The permutation of `0..n` that `stream` selects.
    pub fn new(n: usize, stream: Stream) -> Self {
        let bits = usize::BITS - n.saturating_sub(1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(1);
        let halves = 1u64 << half_bits;
        let Stream { key, purpose, step } = stream;
        let of = |round: u32, half: u64| philox([half as u32, round, step as u32, purpose], key)[0] & (halves - 1) as u32;
        let rounds = (0..ROUNDS).flat_map(|round| (0..halves).map(move |half| of(round, half))).collect();
        Permutation { n, half_bits, rounds }
    }

    /// Puts in place of each position of the shuffled order, below n, where it lies in the original order.
    pub fn apply(&self, positions: &mut [usize]) {
        // All take a step, then those that are still outside take another: so steps overlap, and no branch hangs on where one lands.
        let mut outside: Vec<usize> = (0..positions.len()).collect();
        while !outside.is_empty() {
            let mut left = 0;
            for i in 0..outside.len() {
                let at = outside[i];
                positions[at] = self.step(positions[at]);
                outside[left] = at;
                left += usize::from(positions[at] >= self.n);
            }
            outside.truncate(left);
        }
    }

    /// A step of the walk, over the next power of four.
    fn step(&self, x: usize) -> usize {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in self.rounds.chunks_exact(mask + 1) {
            (left, right) = (right, left ^ round[right] as usize);
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Known answers of Random123's kat_vectors for philox4x32 with 10 rounds.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    fn order(permutation: &Permutation, positions: std::ops::Range<usize>) -> Vec<usize> {
        let mut order: Vec<usize> = positions.collect();
        permutation.apply(&mut order);
        order
    }

    #[test]
    fn permutations_are_feistel_networks_walked_inside() {
        let p = Permutation::new(1000, Stream::new(3, Purpose::Shuffle, 5));
        for i in 0..1000 {
            let mut x = i;
            loop {
                let (mut left, mut right) = (x >> 5, x & 31);
                for round in 0..4 {
                    let f = philox([right as u32, round, 5, Purpose::Shuffle as u32], [3, 0])[0];
                    (left, right) = (right, left ^ u64::from(f & 31));
                }
                x = left << 5 | right;
                if x < 1000 {
                    break;
                }
            }
            assert_eq!(order(&p, 0..1000)[i as usize], x as usize);
        }
        assert_eq!(order(&p, 37..990), order(&p, 0..1000)[37..990]);
    }

    #[test]
    fn permutations_are_permutations() {
        for n in [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097] {
            for seed in 0..3 {
                let p = Permutation::new(n, Stream::new(seed, Purpose::Shuffle, 7));
                let mut seen = vec![false; n];
                for row in order(&p, 0..n) {
                    assert!(!std::mem::replace(&mut seen[row], true));
                }
                assert!(seen.into_iter().all(|s| s));
            }
        }
    }

    #[test]
    fn streams_have_the_right_moments() {
        let s = Stream::new(3, Purpose::Check, 0);
        let n = 100_000u64;
        let mean = (0..n).map(|i| f64::from(s.normal(i))).sum::<f64>() / n as f64;
        let variance = (0..n).map(|i| f64::from(s.normal(i)).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let uniform = (0..n).map(|i| f64::from(s.uniform(i))).sum::<f64>() / n as f64;
        assert!((uniform - 0.5).abs() < 0.005);
    }
}
