"""GroupedByImageSampler: every question once, those about one image together, and the same order everywhere."""

import random

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader, skip_first_batches
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

from training_ume.data.sampler import GroupedByImageSampler, ProcessBatches


def image_ids(images=60, seed=0):
    """3 to 9 questions an image, in a random order of rows."""
    draw = random.Random(seed)
    ids = [f"image{n}" for n in range(images) for _ in range(draw.randint(3, 9))]
    draw.shuffle(ids)
    return ids


def batches(ids, batch_size, **kwargs):
    return list(BatchSampler(GroupedByImageSampler(ids, batch_size, **kwargs), batch_size, drop_last=False))


def test_every_index_comes_exactly_once_an_epoch():
    ids = image_ids()
    sampler = GroupedByImageSampler(ids, batch_size=16)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(len(ids)))
    assert len(sampler) == len(ids)


@pytest.mark.parametrize("batch_size", [1, 4, 16, 1000])
def test_the_questions_of_an_image_lie_in_as_few_consecutive_batches_as_they_can(batch_size):
    ids = image_ids()
    where = {}
    for number, batch in enumerate(batches(ids, batch_size)):
        for index in batch:
            where.setdefault(ids[index], []).append(number)
    for numbers in where.values():
        assert set(numbers) == set(range(min(numbers), max(numbers) + 1))
        assert max(numbers) - min(numbers) <= -(-len(numbers) // batch_size)


def test_a_batch_holds_hardly_more_images_than_it_must():
    ids = image_ids(images=400)
    grouped = sum(len({ids[i] for i in batch}) for batch in batches(ids, 32))
    assert grouped < 1.1 * len(set(ids)), "1.16 times as many without looking ahead, 5.8 times ungrouped"


def test_an_image_with_more_questions_than_a_batch_is_not_put_off_for_ever():
    ids = ["large"] * 50 + [f"small{n}" for n in range(200)]
    firsts = [next(k for k, i in enumerate(GroupedByImageSampler(ids, 8, seed)) if i < 50) for seed in range(20)]
    assert min(firsts) < 100


def test_the_order_follows_from_seed_and_epoch_and_from_nothing_else():
    ids = image_ids()

    def order(seed, epoch):
        sampler = GroupedByImageSampler(ids, 16, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(1)
    first = order(0, 3)
    torch.manual_seed(2)
    assert order(0, 3) == first
    assert order(0, 4) != first
    assert order(1, 3) != first
    sampler = GroupedByImageSampler(ids, 16)
    assert list(sampler) == list(sampler), "an unfinished pass must not shift the next one"


def test_images_meet_other_images_and_questions_change_places_from_epoch_to_epoch():
    ids = image_ids()
    sampler = GroupedByImageSampler(ids, 16)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    within = [[[i for i in order if ids[i] == image] for image in sorted(set(ids))] for order in orders]
    assert sum(a == b for a, b in zip(*within, strict=True)) < 15, "of 60 images, by chance a few keep their order"
    neighbours = [{frozenset(ids[i] for i in order[k : k + 16]) for k in range(0, 320, 16)} for order in orders]
    assert len(neighbours[0] & neighbours[1]) < 3


def test_accelerate_reaches_set_epoch_with_one_process_and_with_two():
    ids = image_ids()
    for processes in (1, 2):
        seen = []
        for process in range(processes):
            sampler = GroupedByImageSampler(ids, 16)
            loader = DataLoader(range(len(ids)), batch_size=16, sampler=sampler, collate_fn=list)
            loader = prepare_data_loader(
                loader, num_processes=processes, process_index=process, put_on_device=False, even_batches=False
            )
            loader.set_epoch(2)
            seen += [tuple(batch) for batch in loader]
            assert sampler.epoch == 2
        expected = GroupedByImageSampler(ids, 16)
        expected.set_epoch(2)
        assert set(seen) == {tuple(b) for b in BatchSampler(expected, 16, False)}, "whole batches are dealt out"


def test_skipping_batches_to_resume_continues_the_epoch_where_it_stood():
    ids = image_ids()
    sampler = GroupedByImageSampler(ids, 16)
    loader = prepare_data_loader(
        DataLoader(range(len(ids)), batch_size=16, sampler=sampler, collate_fn=list), put_on_device=False
    )
    loader.set_epoch(1)
    whole = list(loader)
    rest = skip_first_batches(loader, 3)
    rest.set_epoch(1)
    assert list(rest) == whole[3:]


def test_two_processes_share_an_epoch_without_overlap():
    ids = image_ids()
    shards = [
        BatchSamplerShard(BatchSampler(GroupedByImageSampler(ids, 16), 16, False), 2, process, even_batches=False)
        for process in range(2)
    ]
    indices = [index for shard in shards for batch in shard for index in batch]
    assert sorted(indices) == list(range(len(ids)))


@pytest.mark.parametrize(
    ("ids", "batch_size", "seed", "message"),
    [([], 4, 0, "image_ids is empty"), (["a"], 0, 0, "batch_size=0"), (["a"], 4, -1, "seed=-1")],
)
def test_impossible_arguments_raise_a_sentence(ids, batch_size, seed, message):
    with pytest.raises(ValueError, match=message):
        GroupedByImageSampler(ids, batch_size, seed)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 120), batch_size=st.integers(1, 7), processes=st.integers(1, 8), accumulation=st.integers(1, 4)
)
@example(rows=73, batch_size=1, processes=4, accumulation=1)
@example(rows=73, batch_size=2, processes=4, accumulation=2)
@example(rows=37, batch_size=4, processes=3, accumulation=1)
def test_several_processes_get_every_row_in_equally_many_batches_that_are_never_too_large(
    rows, batch_size, processes, accumulation
):
    assume(rows >= processes)
    shares = [list(ProcessBatches(range(rows), batch_size, processes, process)) for process in range(processes)]
    assert {len(share) for share in shares} == {len(ProcessBatches(range(rows), batch_size, processes))}
    assert len(shares[0]) == -(-rows // (batch_size * processes))
    for batches in zip(*shares, strict=True):
        sizes = [len(batch) for batch in batches]
        assert 1 <= min(sizes) <= max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
    # What one update learns from, in whatever number of batches.
    for start in range(0, len(shares[0]), accumulation):
        update = [row for share in shares for batch in share[start : start + accumulation] for row in batch]
        assert len(update) <= batch_size * processes * accumulation
    seen = [row for step in zip(*shares, strict=True) for batch in step for row in batch]
    assert seen[:rows] == list(range(rows))
    repeated = -rows % processes if batch_size == 1 else 0
    assert seen[rows:] == list(range(repeated))


def test_several_processes_learn_from_the_rows_of_one_process_with_the_batch_of_all():
    ids = image_ids()
    sampler = GroupedByImageSampler(ids, 16)
    shares = [ProcessBatches(sampler, 8, 2, process) for process in (0, 1)]
    together = [first + second for first, second in zip(*shares, strict=True)]
    assert together == list(ProcessBatches(sampler, 16))
    assert len(together[-1]) < 16


def test_the_last_step_is_left_out_where_it_is_not_full_and_that_is_asked_for():
    assert list(ProcessBatches(range(11), 2, 2, 1, drop_last=True)) == [[2, 3], [6, 7]]


@pytest.mark.parametrize(("rows", "drop_last"), [(2, False), (5, True)])
def test_too_few_rows_for_the_processes_are_refused(rows, drop_last):
    with pytest.raises(ValueError, match=f"{rows} rows are too few for 3 processes"):
        ProcessBatches(range(rows), 2, 3, drop_last=drop_last)


def test_bucketing_by_length_pads_less_keeps_images_together_and_shuffles():
    ids = image_ids(images=400)
    draw = random.Random(1)
    typical = {image: draw.randint(5, 15) for image in dict.fromkeys(ids)}
    lengths = [typical[image] + draw.randint(-2, 2) for image in ids]
    plain, bucketed = batches(ids, 32), batches(ids, 32, lengths=lengths)
    assert sorted(i for batch in bucketed for i in batch) == list(range(len(ids)))
    padded, before = (sum(max(lengths[i] for i in b) * len(b) for b in order) for order in (bucketed, plain))
    assert padded < 0.9 * before
    assert sum(len({ids[i] for i in batch}) for batch in bucketed) < 1.1 * len(set(ids))
    assert all(len(batch) == 32 for batch in bucketed[:-1])
    # Whether a batch is long says nothing about when it comes, and the next epoch has other batches.
    longest = [max(lengths[i] for i in batch) for batch in bucketed]
    assert longest != sorted(longest)
    sampler = GroupedByImageSampler(ids, 32, lengths=lengths)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first == [i for batch in bucketed for i in batch]


def test_the_first_pass_is_that_of_epoch_0_however_often_it_is_made():
    sampler = GroupedByImageSampler([0, 0, 1, 2, 2, 3] * 5, batch_size=4, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(0)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
