"""What the tasks plant is there, only where it may be, and answers every question.

An oracle that reads a row as a person would answers all; one that reads the segment of the question
alone finds nothing to go by.
"""

from typing import Any

import numpy as np
import pytest

from studies import library_text, memory_recall, memory_rule
from studies.memory_tasks import ASKS, TELLS, TOLD, Asked, Passkey, Recall, Rule, Task, Text, Turns

TEXT = np.frombuffer(library_text.library_text(characters=60_000).encode(), np.uint8)
TASKS = {
    "recall": Recall(),
    "recall, 15 pairs": memory_recall.WHOLE.more,
    "recall, smoke": memory_recall.SMOKE.task,
    "rule": Rule(),
    "rule, smoke": memory_rule.SMOKE.task,
    "two sessions": Rule(sessions=2),
    "passkey": Passkey(TEXT),
    "turns": Turns(),
    "text": Text(TEXT, 128, segment=64),
}  # fmt: skip


def drawn(task: Any, *, training: bool, segments: int = 4, rows: int = 6) -> tuple[Asked, ...]:
    random = np.random.default_rng(3)
    found: tuple[Asked, ...] = task.draw(random, rows=rows, segments=segments, training=training)
    return found


@pytest.mark.parametrize("training", [True, False], ids=["training", "test"])
@pytest.mark.parametrize("name", TASKS)
def test_rows_are_what_a_model_takes(name: str, training: bool) -> None:
    task: Task = TASKS[name]
    for session in drawn(task, training=training):
        assert session.ids_BT.shape == (6, 4 * task.segment)
        assert session.ids_BT.dtype == session.labels_BT.dtype == np.int32
        assert session.weights_BT.dtype == np.float32
        for ids in (session.ids_BT, session.labels_BT):
            assert ids.min() >= 0
            assert ids.max() < task.vocab_size
        assert (session.weights_BT[session.asked_BT] == 1).all()
    assert all(
        session.asked_BT.any(axis=1).all() for session in drawn(task, training=training)[-1:]
    )


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_draws_the_same_rows_and_another_others(name: str) -> None:
    task: Task = TASKS[name]
    first, second, other = (
        task.draw(np.random.default_rng(seed), rows=3, segments=3, training=True)
        for seed in (5, 5, 6)
    )
    for a, b, c in zip(first, second, other, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
        assert (a.ids_BT != c.ids_BT).any()


@pytest.mark.parametrize("name", [name for name in TASKS if name != "text"])
def test_a_test_asks_in_the_last_segment_alone(name: str) -> None:
    task: Task = TASKS[name]
    *before, last = drawn(task, training=False)
    assert all(not session.asked_BT.any() for session in before)
    assert not last.asked_BT[:, : -task.segment].any()
    assert (last.asked_BT.sum(1) > 0).all()


@pytest.mark.parametrize("name", [name for name in TASKS if name != "text"])
def test_in_training_every_segment_that_can_asks(name: str) -> None:
    task: Task = TASKS[name]
    sessions = drawn(task, training=True, segments=3)
    for number, session in enumerate(sessions):
        asking = session.asked_BT.reshape(len(session.asked_BT), 3, -1).any(-1)
        first_too = number > 0 or isinstance(task, Rule | Turns)
        if not isinstance(task, Passkey):
            assert asking.all(0).tolist() == [first_too, True, True]
        assert asking[:, 2].all()


@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith("recall")])
@pytest.mark.parametrize("training", [True, False], ids=["training", "test"])
def test_the_pairs_of_the_first_segment_answer_every_query(name: str, training: bool) -> None:
    task = TASKS[name]
    assert isinstance(task, Recall)
    (rows,) = drawn(task, training=training)
    answered = 0
    for ids, labels, asked in zip(rows.ids_BT, rows.labels_BT, rows.asked_BT, strict=True):
        first = ids[: task.segment]
        places = np.flatnonzero(first < task.keys)
        pairs = {int(ids[place]): int(ids[place + 1]) for place in places}
        assert len(pairs) == len(places) == task.pairs
        assert all(task.keys <= value < task.keys + task.values for value in pairs.values())
        # Behind it stands no value, and every key is a query.
        rest = ids[task.segment :]
        assert not ((rest >= task.keys) & (rest < task.keys + task.values)).any()
        assert (np.flatnonzero(rest < task.keys) == np.flatnonzero(asked[task.segment :])).all()
        for place in np.flatnonzero(asked):
            assert pairs[int(ids[place])] == labels[place]
            answered += 1
    asking = 3 if training else 1
    assert answered == len(rows.ids_BT) * asking * task.queries


def test_every_value_is_as_likely_as_any_other() -> None:
    task = Recall()
    (rows,) = drawn(task, training=False, segments=2, rows=600)
    counts = np.bincount(rows.labels_BT[rows.asked_BT], minlength=task.vocab_size)
    values = counts[task.keys : task.keys + task.values]
    assert values.sum() == counts.sum() == 600 * task.queries
    # Answers of a row are no independent draws: one in `pairs` is.
    expected = 600 * task.pairs * task.chance
    assert abs(values * task.pairs / task.queries - expected).max() < 6 * expected**0.5


@pytest.mark.parametrize("name", ["rule", "rule, smoke", "two sessions"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "test"])
def test_the_examples_tell_the_map_that_answers_every_query(name: str, training: bool) -> None:
    task = TASKS[name]
    assert isinstance(task, Rule)
    sessions = drawn(task, training=training)
    answered = 0
    for row in range(6):
        first = sessions[0].ids_BT[row, : task.segment // 2]
        places = np.flatnonzero(first < task.inputs)
        told = {int(first[place]): int(first[place + 1]) for place in places}
        assert len(told) == len(places) == task.examples
        fitting = [
            image_X for image_X in task.images if all(image_X[x] == y for x, y in told.items())
        ]
        assert len(fitting) == 1
        for number, session in enumerate(sessions):
            ids, asked = session.ids_BT[row], session.asked_BT[row]
            images = (ids >= task.inputs) & (ids < 2 * task.inputs)
            assert images.sum() == (task.examples if number == 0 else 0)
            shown = task.examples if number == 0 else 0
            assert (ids < task.inputs).sum() == asked.sum() + shown
            for place in np.flatnonzero(asked):
                assert int(ids[place]) not in told
                assert fitting[0][ids[place]] == session.labels_BT[row, place]
                answered += 1
    if not training:
        assert answered == 6 * task.queries


def test_all_maps_send_an_input_elsewhere() -> None:
    for task in (Rule(), Rule(maps=16), Rule(hidden=1), memory_rule.SMOKE.task):
        image_RX = task.images
        assert image_RX.shape == (task.maps, task.inputs)
        for column in image_RX.T:
            assert len(set(column)) == task.maps, "so that chance is one in as many"
        for row in image_RX:
            assert sorted(row) == list(range(task.inputs, 2 * task.inputs))
    assert (Rule(hidden=1).images != Rule().images).any()


@pytest.mark.parametrize("training", [True, False], ids=["training", "test"])
@pytest.mark.parametrize("segments", [2, 3, 20])
def test_the_key_stands_in_the_text_once_and_answers(training: bool, segments: int) -> None:
    task = Passkey(TEXT)
    (rows,) = drawn(task, training=training, segments=segments, rows=12)
    depths = set()
    for ids, labels, asked in zip(rows.ids_BT, rows.labels_BT, rows.asked_BT, strict=True):
        text = bytes(ids.astype(np.uint8))
        assert text.count(TELLS) == 1
        told = text.index(TELLS) + len(TELLS)
        key = text[told : told + task.digits]
        assert key.isdigit()
        end = told + task.digits + len(TOLD)
        assert text[told + task.digits : end] == TOLD
        depths.add(told)
        places = np.flatnonzero(asked).reshape(-1, task.digits)
        later = (places // task.segment).min(1)
        assert (later > (end - 1) // task.segment).all(), "attention does not reach the key"
        assert later[-1] == segments - 1
        assert len(places) <= (task.asking if training else 1)
        for five in places:
            assert bytes(labels[five].astype(np.uint8)) == key
            assert text[: five[0] + 1].endswith(ASKS)
            # No digit is seen before it is asked for.
            start = five[0] // task.segment * task.segment
            assert key not in text[start : five[-1] + 1]
    assert len(depths) > 1


def test_half_of_trainings_keys_and_few_of_the_tests_are_told_across_a_segments_end() -> None:
    task, said = Passkey(TEXT), len(TELLS) + Passkey(TEXT).digits + len(TOLD)

    def across(*, training: bool) -> float:
        (rows,) = drawn(task, training=training, segments=10, rows=300)
        starts = [bytes(ids.astype(np.uint8)).index(TELLS) for ids in rows.ids_BT]
        return float(np.mean([start % task.segment + said > task.segment for start in starts]))

    by_chance = (said - 1) / task.segment
    assert across(training=False) == pytest.approx(by_chance, abs=0.08)
    assert across(training=True) == pytest.approx((1 + by_chance) / 2, abs=0.08)


def test_the_text_around_the_key_is_the_text() -> None:
    task = Passkey(TEXT)
    (rows,) = drawn(task, training=False, segments=3)
    whole = TEXT.tobytes()
    for ids in rows.ids_BT:
        text = bytes(ids.astype(np.uint8))
        assert TELLS not in whole
        told = text.index(TELLS)
        assert whole.count(text[:told]) >= 1
        end = told + len(TELLS) + task.digits + len(TOLD)
        assert text[end : text.index(ASKS)] in whole


@pytest.mark.parametrize("training", [True, False], ids=["training", "test"])
def test_a_lesson_asks_then_names_the_map_and_agrees_with_those_before(training: bool) -> None:
    task = Turns()
    base_X = np.random.default_rng(task.hidden).permutation(task.inputs)
    (rows,) = drawn(task, training=training, segments=6)
    known: list[dict[int, int]] = [{} for _ in range(6)]
    for row, segment in np.ndindex(6, 6):
        cut = slice(segment * task.segment, (segment + 1) * task.segment)
        ids, labels = rows.ids_BT[row, cut], rows.labels_BT[row, cut]
        asked, counts = rows.asked_BT[row, cut], rows.weights_BT[row, cut] > 0
        (cue,) = set(ids[::2].tolist())
        assert cue < task.cues
        name = int(ids[2 * task.before + 1]) - task.cues - 2 * task.inputs
        assert 0 <= name < task.inputs
        if segment == 5:
            assert cue in known[row], "the last one returns"
        assert known[row].setdefault(cue, name) == name
        questions = [place for place in range(1, len(ids), 2) if place != 2 * task.before + 1]
        for place in questions:
            x, y = ids[place] - task.cues, labels[place] - task.cues - task.inputs
            assert base_X[(x + name) % task.inputs] == y
        if training or segment == 5:
            assert np.flatnonzero(asked).tolist() == questions[: task.before]
            assert np.flatnonzero(counts).tolist() == questions
        else:
            assert not asked.any() and not counts.any()
    assert all(len(set(maps.values())) == len(maps) for maps in known), "cues differ in their map"


def test_a_lesson_of_one_map() -> None:
    task = Turns()
    random = np.random.default_rng(0)
    number = int(task.maps(random, count=3)[2])
    lesson = task.lesson(random, rows=5, cue=4, number=number)
    assert lesson.ids_BT.shape == (5, task.segment)
    assert (lesson.ids_BT[:, ::2] == 4).all()
    assert lesson.asked_BT.sum() == 5 * task.before
    assert (lesson.ids_BT == task.cues + 2 * task.inputs + number).sum() == 5


def test_text_is_read_whole_and_in_order() -> None:
    task = Text(TEXT, 128, segment=64)
    batches = [rows for (rows,) in task.whole(rows=4, segments=3)]
    ids = np.concatenate([rows.ids_BT for rows in batches]).ravel()
    np.testing.assert_array_equal(ids, TEXT[: len(ids)])
    labels = np.concatenate([rows.labels_BT for rows in batches]).ravel()
    np.testing.assert_array_equal(labels, TEXT[1 : len(ids) + 1])
    assert len(TEXT) - len(ids) < 5 * 3 * 64
    assert all(rows.asked_BT.all() for rows in batches)
