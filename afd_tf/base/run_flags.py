"""Which flags there are, and which of them decide what a run is.

A run is identified by the flags of the packages `data`, `models`, `distill` and
`training`. A module of these that defines a flag about where or how a run is carried
out says so with `operational`; the flags of all other packages are about what is done
with a run.
"""

import sys
from typing import TypeVar

from absl import flags

_IDENTIFYING_PACKAGES = ("data", "models", "distill", "training")
_OPERATIONAL: set[str] = set()

Holder = TypeVar("Holder", bound=flags.FlagHolder)


def operational(holder: Holder) -> Holder:
    """Marks a flag that says where or how a run is carried out, and not what it is.

    Args:
      holder: what `flags.DEFINE_...` returned.

    Returns:
      the same holder.
    """
    _OPERATIONAL.add(holder.name)
    return holder


def operational_names() -> set[str]:
    """Returns the names of the flags that are marked as operational."""
    return set(_OPERATIONAL)


def identifying_names() -> set[str]:
    """Returns the names of the flags that decide what a run is."""
    packages = tuple(f"afd_tf.{name}." for name in _IDENTIFYING_PACKAGES)
    return {
        flag.name
        for module, module_flags in flags.FLAGS.flags_by_module_dict().items()
        if f"{module}.".startswith(packages)
        for flag in module_flags
    } - _OPERATIONAL


def resolved_flags() -> dict[str, str]:
    """Returns all flags of this project that have a value, as text by name."""
    values = {}
    for module, module_flags in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("afd_tf.") or module == sys.argv[0]:
            for flag in module_flags:
                if flag.value not in (None, []):
                    text = flag.serialize().partition("=")[2]
                    values[flag.name] = text or str(flag.value).lower()
    return values
