//! The machine of an evaluation.

use tandem_energy::EnergyMeter;
use tandem_engine::DeviceChoice;
use tandem_eval::report::Machine;

use super::args::Args;

/// A meter for the devices of the models. `None` with an endpoint: its devices are not on this machine.
pub(super) fn energy_meter(args: &Args) -> Option<EnergyMeter> {
    match (&args.endpoint, args.pair.device) {
        (Some(_), _) => None,
        (None, DeviceChoice::Cpu) => EnergyMeter::processors(),
        (None, _) => EnergyMeter::gpus(),
    }
}

/// A description of this machine and of the devices of the models.
pub(super) fn machine(args: &Args, meter: Option<&EnergyMeter>) -> Machine {
    let device = match (&args.endpoint, args.pair.device, args.pair.draft_device) {
        (Some(_), ..) => "remote".to_owned(),
        (None, target, Some(draft)) if draft != target => format!("{target}, draft on {draft}"),
        (None, target, _) => target.to_string(),
    };
    Machine {
        cpu: cpu(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        os: std::env::consts::OS.to_owned(),
        device,
        energy: meter.map_or("not available", EnergyMeter::name).to_owned(),
    }
}

/// The model name of the CPU where Linux reports it, or else the architecture.
fn cpu() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
