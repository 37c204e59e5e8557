"""Every option is documented, with a unit where it counts something."""

import re

from rtdlm.config.fields import field_docs, nearest


def test_every_field_says_what_it_means() -> None:
    assert [doc.name for doc in field_docs() if len(doc.doc) < 15] == []


def test_every_number_that_counts_something_has_a_unit() -> None:
    shares = re.compile(r"weight|norm|std|fraction|momentum|beta|epsilon|decay|scale|z_loss|cap")
    unitless = [
        doc.name
        for doc in field_docs()
        if re.match(r"int|float", doc.type)
        and "[" not in doc.doc
        and not shares.search(doc.name)
        and doc.name not in ("seed", "optimizer.newton_schulz_steps")
    ]
    assert unitless == []


def test_names_are_unique_and_dotted_by_section() -> None:
    names = [doc.name for doc in field_docs()]
    assert len(names) == len(set(names))
    assert {"d_model", "optimizer.name", "data.held_out_fraction"} <= set(names)


def test_nearest_prefers_the_misplaced_field() -> None:
    assert nearest("held_out_fraction") == "did you mean 'data.held_out_fraction'?"
    assert nearest("model.d_model") == "did you mean 'd_model'?"
