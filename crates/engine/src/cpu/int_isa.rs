//! Integer kernels for all instruction sets: generic over [`IntIsa`], compiled once for each set.

mod vectors;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

pub(crate) use vectors::{Floats, IntIsa};

/// Defines `fn $name(level, args…)`, which runs `$generic::<I>(args…)` compiled for the best [`IntIsa`] of
/// `level`. `$generic` must be `#[inline(always)]`; otherwise it would be compiled without that set.
macro_rules! for_each_int_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $result:ty)? = $generic:ident) => {
        $(#[$doc])*
        $vis fn $name(level: $crate::cpu::level::Level, $($arg: $ty),*) $(-> $result)? {
            use $crate::cpu::{isa::Portable, level::Level};
            #[cfg(target_arch = "x86_64")]
            use $crate::cpu::{isa::Avx2, int_isa::x86::Vnni, tiles::{NoTiles, amx::AmxTiles}};
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
            unsafe fn amx($($arg: $ty),*) $(-> $result)? {
                // SAFETY: the caller checked for the instruction set and keeps the contract of the generic
                // function.
                unsafe { $generic::<Vnni<AmxTiles>>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
            unsafe fn vnni($($arg: $ty),*) $(-> $result)? {
                // SAFETY: as above.
                unsafe { $generic::<Vnni<NoTiles>>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) $(-> $result)? {
                // SAFETY: as above.
                unsafe { $generic::<Avx2>($($arg),*) }
            }
            match level {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a Level exists only where the machine has it.
                Level::Amx => unsafe { amx($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Level::Vnni => unsafe { vnni($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Level::Avx512 | Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: runs everywhere.
                Level::Portable => unsafe { $generic::<Portable>($($arg),*) },
            }
        }
    };
}

pub(crate) use for_each_int_isa;
