//! Energy from the machine's cumulative counters.
//!
//! The difference between two readings of a cumulative counter is exact, however far apart they are. A sum
//! of power samples is not.
//!
//! GPUs are read through NVML (total energy since the driver was loaded; Volta or newer), processor
//! packages through RAPL as Linux exposes it under `/sys/class/powercap`. The counters cover whole GPUs or
//! packages, so they include everything else that runs there.

mod rapl;

use std::path::Path;

use nvml_wrapper::Nvml;

use crate::rapl::Rapl;

/// Reads the energy counters of this machine.
#[derive(Debug)]
pub struct EnergyMeter {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Nvml { nvml: Box<Nvml>, gpus: u32 },
    Rapl(Rapl),
}

impl EnergyMeter {
    /// A meter for all GPUs of this machine (NVML); `None` if there is no GPU with an energy counter.
    pub fn gpus() -> Option<Self> {
        Some(Self { source: nvml()? })
    }

    /// A meter for the processor packages of this machine (RAPL).
    ///
    /// `None` if there are no counters or this process may not read them: on most systems only root may.
    pub fn processors() -> Option<Self> {
        Some(Self { source: Source::Rapl(Rapl::open(Path::new("/sys/class/powercap"))?) })
    }

    /// The source of the readings: "nvml" or "rapl".
    pub fn name(&self) -> &'static str {
        match self.source {
            Source::Nvml { .. } => "nvml",
            Source::Rapl(_) => "rapl",
        }
    }

    /// Joules since an arbitrary fixed moment; `None` if the counters can no longer be read.
    pub fn joules(&mut self) -> Option<f64> {
        match &mut self.source {
            Source::Nvml { nvml, gpus } => nvml_joules(nvml, *gpus),
            Source::Rapl(rapl) => rapl.joules(),
        }
    }
}

fn nvml() -> Option<Source> {
    // Loads libnvidia-ml.so at run time, so machines without NVIDIA's driver can run the same binary.
    let nvml = Nvml::init().ok()?;
    let gpus = nvml.device_count().ok().filter(|&n| n > 0)?;
    nvml_joules(&nvml, gpus)?;
    Some(Source::Nvml { nvml: Box::new(nvml), gpus })
}

fn nvml_joules(nvml: &Nvml, gpus: u32) -> Option<f64> {
    let mut millijoules = 0;
    for gpu in 0..gpus {
        millijoules += nvml.device_by_index(gpu).ok()?.total_energy_consumption().ok()?;
    }
    Some(millijoules as f64 / 1e3)
}
