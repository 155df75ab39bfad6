"""The declared keys."""

from mrcnn_zoo import registries
from mrcnn_zoo.config.defaults import ALL_KEYS, AREAS, DETECTRON2_NAMES, KEYS_BY_NAME, KEYS_BY_OLD_NAME, SECTION_NAMES
from mrcnn_zoo.config.keys import Assignment, Origin
from mrcnn_zoo.config.values import coerce
from mrcnn_zoo.registry import Registry
from support.references import detectron2_defaults


def test_every_key_has_a_meaning_that_ends_with_a_period() -> None:
    assert [key.name for key in ALL_KEYS if not key.meaning.endswith(".")] == []


def test_names_are_unique_and_none_is_also_a_section() -> None:
    assert len(KEYS_BY_NAME) == len(ALL_KEYS)
    assert SECTION_NAMES.isdisjoint(KEYS_BY_NAME)


def test_names_are_written_in_capitals() -> None:
    assert [key.name for key in ALL_KEYS if key.name != key.name.upper()] == []


def test_every_default_fits_its_own_key() -> None:
    for key in ALL_KEYS:
        if not key.is_open:
            assert coerce(Assignment((key.name,), key.default, Origin("default")), key) == key.default


def test_only_keys_of_detectron2_may_be_unsupported() -> None:
    assert [key.name for area in AREAS for key in area.NEW_KEYS if key.unsupported is not None] == []


def test_old_names_are_unique_and_no_keys() -> None:
    assert len(KEYS_BY_OLD_NAME) == sum(len(key.old_names) for key in ALL_KEYS)
    assert set(KEYS_BY_OLD_NAME).isdisjoint(KEYS_BY_NAME)


def test_each_registry_names_a_key_that_names_it() -> None:
    for registry in vars(registries).values():
        if isinstance(registry, Registry) and registry.key:
            assert KEYS_BY_NAME[registry.key].registry is registry


def test_key_of_registered_names_declares_its_registry() -> None:
    for key in ALL_KEYS:
        if key.unsupported is None:
            assert key.meaning.startswith(("Registered ", "Additional hooks")) <= (key.registry is not None), key.name


# Ours, and Detectron2's: its "cuda" cannot be used on a machine without a GPU.
OTHER_DEFAULTS = {"MODEL.DEVICE": ("auto", "cuda")}


def test_detectron2s_keys_have_its_defaults_but_for_the_device() -> None:
    recorded = detectron2_defaults()
    ours = {name: KEYS_BY_NAME[name].default for name in DETECTRON2_NAMES}
    assert {name: (ours[name], recorded[name]) for name in recorded if ours[name] != recorded[name]} == OTHER_DEFAULTS
    assert len(recorded) == 192
