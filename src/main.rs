use std::process::ExitCode;

use clap::Parser;
use debut::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.start_log();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("debut: {error}");
            ExitCode::from(2)
        }
    }
}
