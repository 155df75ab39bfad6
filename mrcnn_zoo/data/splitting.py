"""Parting a dataset into training and validation so that both have the same mixture of images."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping


def choose_validation(strata: Mapping[str, str], fraction: float, *, seed: int = 0) -> set[str]:
    """Names of the images to validate on: a share of each stratum, chosen by a hash of the name.

    The choice depends on names, strata and seed alone, not on their order or the machine. The share is exact over all
    images; seats that whole numbers leave over go to the strata that are owed most (largest remainders).

    Args:
        strata: image name -> name of its stratum.
        fraction: of the images to validate on, 0 to 1.
        seed: another seed, another choice.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name, stratum in strata.items():
        members[stratum].append(name)
    shares = {stratum: len(names) * fraction for stratum, names in members.items()}
    seats = {stratum: int(share) for stratum, share in shares.items()}
    left_over = int(len(strata) * fraction + 0.5) - sum(seats.values())
    owed = sorted(members, key=lambda stratum: (seats[stratum] - shares[stratum], stratum))
    for stratum in owed[:left_over]:
        seats[stratum] += 1
    chosen: set[str] = set()
    for stratum, names in members.items():
        chosen.update(sorted(names, key=lambda name: _digest(name, seed))[: seats[stratum]])
    return chosen


def _digest(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
