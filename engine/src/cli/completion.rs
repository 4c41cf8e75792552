//! `skytide completion`: what a shell needs to complete our arguments.

use anyhow::Context as _;
use clap_complete::Shell;

use super::{Context, Outcome};

/// Print a completion script for a shell
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  skytide completion bash > ~/.local/share/bash-completion/completions/skytide\n  \
                        skytide completion zsh > ~/.zfunc/_skytide\n  \
                        skytide completion fish > ~/.config/fish/completions/skytide.fish"
)]
pub struct CompletionArgs {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub fn run(args: &CompletionArgs, context: &Context) -> anyhow::Result<Outcome> {
    context.output.line(script(args.shell)?.trim_end())?;
    Ok(Outcome::Done)
}

fn script(shell: Shell) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "skytide", &mut bytes);
    String::from_utf8(bytes).context("write the completion script")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_learns_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell).unwrap();
            for word in ["qadmin", "add-table", "dry-run"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
