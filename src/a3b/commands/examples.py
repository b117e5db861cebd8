"""Commands as they are typed, at the end of the help of each command."""

from __future__ import annotations

EXAMPLES = {
    "up": """
a3b up                          # Qwen3.6-35B-A3B, in the preset that suits this machine
a3b up qwen3.6:fast --yes       # this preset, without a question
a3b up unsloth/Qwen3.6-35B-A3B-GGUF:Q4_K_M
a3b up ~/models/model.gguf --port 9000""",
    "chat": """
a3b chat                        # with a3b-nano
a3b chat DIR --continue         # continue the last conversation
a3b chat --resume               # list conversations; --resume ID continues one""",
    "run": """
a3b run "What is recursion?"
a3b run DIR "Name three birds." --no-think --json
git diff | a3b run DIR "Write a commit message for this."
a3b run DIR < question.txt""",
    "serve": """
a3b serve DIR --port 8080
a3b serve DIR --host 0.0.0.0 --api-key-file keys.txt""",
    "code": """
a3b code                                   # in a project's directory
a3b code "Fix the failing test."           # the first message
a3b code -p "Fix the failing test." --max-turns 30
a3b code -p "Why does this fail?" --json < log.txt
a3b code --continue
a3b code sessions""",
    "launch": """
a3b launch claude
a3b launch qwen --model DIR -- -p "What does this project do?"
a3b launch codex --print                   # only show how it is started""",
    "warm": """
a3b warm claude                            # once; then its first prompt takes seconds""",
    "info": """
a3b info DIR --context 500000""",
    "list": """
a3b list
a3b list --available            # names that can be had
a3b list --found                # models of other programs, such as Ollama""",
    "rm": """
a3b rm qwen3.6:fast
a3b rm qwen3.6:fast --sessions --yes""",
    "pull": """
a3b pull Qwen/Qwen3.6-35B-A3B models/35b""",
    "render": """
echo '[{"role": "user", "content": "Hi"}]' | a3b render --messages -""",
    "pack": """
a3b pack models/35b models/35b-balanced
a3b pack model.gguf models/packed
a3b pack Qwen/Qwen3.6-35B-A3B-FP8 models/35b-balanced
a3b pack --add-mtp models/35b models/35b-balanced""",
    "cache": """
a3b cache list
a3b cache prune --older-than 7d --max-bytes 2GiB""",
    "eval": """
a3b eval list                          # what can be run, and what it needs
a3b eval lookup --limit 20 --model nano
a3b eval lookup --resume               # after anything that broke it off
a3b eval plan swebench                 # how long it takes here
a3b eval report ~/.cache/a3b/evals
a3b eval compare DIR OTHER             # two runs, case by case""",
    "completion": """
mkdir -p ~/.local/share/bash-completion/completions ~/.zfunc ~/.config/fish/completions
a3b completion bash > ~/.local/share/bash-completion/completions/a3b
a3b completion zsh > ~/.zfunc/_a3b       # a directory in $fpath, before compinit
a3b completion fish > ~/.config/fish/completions/a3b.fish""",
    "help": """
a3b help run
a3b help cache prune""",
}
