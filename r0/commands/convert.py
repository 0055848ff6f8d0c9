"""``convert IN OUT``: raw production logs to pointwise rows; ``convert builtin FOLDER``: the built-in lists as a BEIR folder;
``convert FILE.gguf FOLDER``: a GGUF file as a model folder."""

from __future__ import annotations

from pathlib import Path

from r0.config import ConvertConfig
from r0.data.readers import DataKind


def run(config: ConvertConfig, dry_run: bool) -> int:
    """Convert, and print what was written."""
    from r0.data.builtin.convert import convert_builtin
    from r0.data.convert import convert
    from r0.data.esci import is_esci
    from r0.data.esci_convert import convert_esci
    from r0.storage.weight_files import is_gguf

    source = Path(config.input)
    gguf = is_gguf(source)
    builtin = config.input == DataKind.BUILTIN
    if dry_run and builtin:
        print(f"would write {config.rows} lists of the built-in task to {config.output}")
    elif dry_run:
        state = "exists" if source.is_file() else "is missing"
        print(f"would convert {config.input} (which {state}) to {config.output}")
    else:
        if builtin:
            print(convert_builtin(config))
        elif gguf:
            from r0.storage.gguf import convert_gguf

            print(convert_gguf(source, Path(config.output)))
        else:
            print(convert_esci(config) if is_esci(source) else convert(config).summary())
    return 0
