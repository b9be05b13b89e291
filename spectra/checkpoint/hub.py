"""Hub id and revision -> a directory on this machine, through huggingface_hub's cache.

Everything after this works on local files: the weights that are read are the files that are
verified and hashed. Only what is needed is fetched: the configuration and tokenizer, then one
format of weights, safetensors before pickles. HF_HUB_OFFLINE and HF_TOKEN act as they do there.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

from spectra.checkpoint.quiet import first_line
from spectra.errors import CheckpointError

ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?", re.ASCII)
FILE_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".json")
SMALL = ["*.json", "*.jinja", "*.txt", "*.model", "*.py"]
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)
WEIGHTS = [["model*.safetensors"], ["pytorch_model*.bin"]]


def looks_like_id(name: str) -> bool:
    """Return whether `name` could be a hub id: NAME or ORG/NAME, and no file name."""
    return ID.fullmatch(name) is not None and not name.lower().endswith(FILE_SUFFIXES)


def snapshot(name: str, revision: str | None, *, weights: bool, near: str = "") -> Path:
    """Return the directory of the hub model `name`, fetched unless it is in the cache.

    Args:
        name: Hub id.
        revision: Branch, tag or commit; None is "main".
        weights: Whether to fetch weights too.
        near: "; did you mean ..." for a local path, appended where no such model exists.

    Raises:
        CheckpointError: If there is no such model or revision, it is gated, or the hub cannot be
            reached and the cache does not hold it.
    """
    directory = _fetch(name, revision, SMALL, near)
    if weights:
        for patterns in WEIGHTS:
            directory = _fetch(name, revision, patterns, near)
            if any(any(directory.glob(pattern)) for pattern in patterns):
                break
    return directory


def _fetch(name: str, revision: str | None, patterns: list[str], near: str) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
        )
    except errors.GatedRepoError:
        reason = "that hub model is gated; accept its terms on the hub and set HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = f"that hub model has no revision {revision!r}; list its branches on the hub"
    except errors.RepositoryNotFoundError:
        reason = f"the hub has no such model, or it is private (HF_TOKEN){near}"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        if not constants.HF_HUB_OFFLINE and error.errno in UNWRITABLE:
            raise CheckpointError(
                f"ckpt={name!r} cannot be fetched into {constants.HF_HUB_CACHE!r} "
                f"({os.strerror(error.errno or 0)}); set HF_HOME to one that can be written."
            ) from None
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _reason(error)
        at = f" at revision {revision!r}" if revision else ""
        reason = (
            f"the hub model of that name{at} is not in the cache and the hub cannot be asked "
            f"({why}){near or '; check the spelling, or fetch it while connected'}"
        )
    except Exception as error:  # whatever else the client raises: an id it refuses, a bad answer
        reason = f"the hub client refused: {first_line(error)}{near}"
    raise CheckpointError(f"ckpt={name!r} is not a local path, and {reason}.")


def _reason(error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"it answered {status}" if status else "no connection"
