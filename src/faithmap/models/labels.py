"""Names of the classes that the shipped classifiers tell apart."""

from __future__ import annotations

from importlib.resources import files


def imagenet_labels() -> tuple[str, ...]:
    """The names of the 1000 classes of ImageNet (ILSVRC 2012), in the order of the logits.

    Examples:
        >>> labels = imagenet_labels()
        >>> len(labels), labels[285]
        (1000, 'Egyptian cat')
    """
    return tuple(files("faithmap").joinpath("assets/imagenet_labels.txt").read_text(encoding="utf-8").splitlines())


def imagenet_wnids() -> tuple[str, ...]:
    """The WordNet identifiers of the 1000 classes of ImageNet (ILSVRC 2012), sorted: the order of the logits.

    Examples:
        >>> wnids = imagenet_wnids()
        >>> wnids[285], wnids == tuple(sorted(wnids))
        ('n02124075', True)
    """
    return tuple(files("faithmap").joinpath("assets/imagenet_wnids.txt").read_text(encoding="utf-8").splitlines())
