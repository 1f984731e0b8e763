//! Which kernels multiply which weights.

/// The kernel that multiplies the weights of one dtype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelUse {
    /// The dtype of the weights, such as `bf16` or `q4_1`.
    pub dtype: String,
    /// What the kernel is, and what it does with the inputs.
    pub kernel: &'static str,
    /// Whether it multiplies 8-bit integers, not f32.
    pub integer: bool,
    /// The number of weights: the multiply-adds of a row.
    pub weights: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl KernelUse {
    /// Adds up those of the same dtype and kernel, the most weights first.
    pub(crate) fn sum(uses: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut sums = Vec::<Self>::new();
        for one in uses {
            match sums.iter_mut().find(|sum| sum.dtype == one.dtype && sum.kernel == one.kernel) {
                Some(sum) => {
                    sum.weights += one.weights;
                    sum.bytes += one.bytes;
                }
                None => sums.push(one),
            }
        }
        sums.sort_by_key(|sum| std::cmp::Reverse(sum.weights));
        sums
    }
}
