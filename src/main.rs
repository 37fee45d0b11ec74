use std::process::ExitCode;

use clap::Parser;
use debut::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.start_log();
    debut::audio::silence_caught_panics();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("debut: {error}");
            ExitCode::from(2)
        }
    }
}
