//! Loops that are compiled for more than one processor.

/// A function whose body is compiled for every processor of its architecture and, on x86-64, once more for those with wider vectors, fused multiplications and
/// instructions that count bits (AVX2, FMA, BMI, POPCNT); the processor that runs it decides. What its body calls must be
/// `#[inline(always)]`.
///
/// Nothing is fused but where the body asks for it by its constant `FUSED`, which says whether there is an instruction for it.
macro_rules! vectorised {
    ($(#[$note:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$note])*
        fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body<const FUSED: bool>($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt")]
                fn wide($($arg: $type),*) $(-> $result)? {
                    body::<true>($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("bmi1")
                    && std::arch::is_x86_feature_detected!("bmi2")
                    && std::arch::is_x86_feature_detected!("popcnt")
                {
                    // SAFETY: the processor has just been asked for what `wide` needs.
                    #[allow(unsafe_code, reason = "calls what was compiled for this processor")]
                    return unsafe { wide($($arg),*) };
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use vectorised;
