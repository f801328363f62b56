"""Recipes: what they may say, as objects and as text, and a run of one."""

import json
import shutil

import jsonschema
import keras
import models
import numpy as np
import pytest
import settings
from hypothesis import example, given
from hypothesis import strategies as st
from pages import Page

import kprune
from kprune.compat.tfmot.schedules import Called
from kprune.page.facts import SCHEMA
from kprune.recipe import (
    Export,
    Prune,
    QuantizeAware,
    Recipe,
    RecipeReport,
    Shrink,
    Train,
    epochs,
    running,
)
from kprune.recipe.epochs import EpochKeeper

NO_TEXT = (kprune.SparsityFunction, Called)
BOARD = {"name": "board", "like": "microcontroller", "flash": 262144}


def rules():
    """A rule with each setting that a rule can have."""
    for schedule in settings.SCHEDULES:
        if not isinstance(schedule, NO_TEXT):
            yield kprune.Rule(schedule)
    moments = kprune.Epochs(1), kprune.FitFraction(0.5)
    yield kprune.Rule(kprune.CosineRamp(0.0, 0.5, *moments))
    for criterion in settings.CRITERIA:
        yield kprune.Rule(0.5, criterion, granularity="channel")
    for granularity in settings.GRANULARITIES:
        if granularity.fixed_sparsity is None:
            yield kprune.Rule(0.5, granularity=granularity)
        else:
            yield kprune.Rule(granularity=granularity)
    for allocation in settings.ALLOCATIONS:
        yield kprune.Rule(0.5, allocation=allocation, only="dense*", skip_last=True)
    for regrowth in settings.REGROWTHS:
        yield kprune.Rule(0.5, regrowth=regrowth)
    for regularization in settings.REGULARIZATIONS:
        yield kprune.Rule(0.5, granularity="channel", regularization=regularization)


EPOCHS = st.integers(1, 20)
PRUNES = st.builds(
    Prune,
    plan=st.lists(st.sampled_from(list(rules())), min_size=1, max_size=3),
    epochs=EPOCHS,
    learning_rate=st.none() | st.floats(1e-6, 1),
    alpha=st.floats(0.1, 1),
)
SHRINKS = st.one_of(
    st.builds(
        Shrink,
        budget=st.sampled_from(
            [kprune.Budget(macs=0.5), kprune.Budget(arena_bytes=4e4)]
        ),
        epochs=st.integers(0, 3),
        only=st.none() | st.just("block*"),
        criterion=st.none() | st.sampled_from(settings.CRITERIA),
    ),
    st.builds(Shrink, st.just(0.5), allocation=st.just("global"), epochs=EPOCHS),
    st.builds(Shrink, blocks=st.sampled_from([1, ("add", "add_1")]), epochs=EPOCHS),
)
RECIPES = st.builds(
    lambda train, middle, last, **rest: Recipe((*train, *middle, *last), **rest),
    st.lists(st.builds(Train, epochs=EPOCHS), max_size=1),
    st.tuples(PRUNES, SHRINKS) | st.tuples(SHRINKS, SHRINKS, PRUNES),
    st.lists(
        st.builds(QuantizeAware, st.just("learned"), skip=st.just("a*"), epochs=EPOCHS),
        max_size=1,
    ),
    export=st.sampled_from(
        [
            "microcontroller",
            ("android", Export(BOARD, encode=True)),
        ]
    ),
    batch_size=st.integers(1, 512),
    seed=st.integers(0, 2**31),
    data=st.none() | st.text(),
)


@given(RECIPES)
@example(Recipe(Train(epochs=1), data="\u00ed\x85\u2028"))
def test_a_recipe_is_the_same_as_its_text(recipe):
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@given(RECIPES)
def test_a_recipe_is_the_same_as_its_configuration(recipe):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(recipe)))
    assert keras.saving.deserialize_keras_object(config).to_yaml() == recipe.to_yaml()


TEXT = """\
data: Fashion-MNIST
batch_size: 128
stages:
- train: {epochs: 8, learning_rate: 2e-3}
- shrink:
    epochs: 0
    budget: {macs: 0.5}
- prune:
    epochs: 4
    distill: false
    plan:
    - {schedule: 0.8, granularity: {block: {shape: [4, 1]}}, only: dense*}
    - schedule:
        polynomial_decay:
          initial_sparsity: 0.0
          final_sparsity: 0.5
          begin_step: 100
          end_step: {epochs: 2}
      criterion: {magnitude: {order: 2}}
- quantize_aware: {epochs: 2}
export: [android, {target: {name: board, like: microcontroller}, encode: true}]
"""


def test_what_people_write():
    ramp = kprune.PolynomialDecay(0.0, 0.5, 100, kprune.Epochs(2))
    plan = (
        kprune.Rule(0.8, granularity=kprune.Block((4, 1)), only="dense*"),
        kprune.Rule(ramp, kprune.Magnitude(2)),
    )
    assert Recipe.from_yaml(TEXT) == Recipe(
        (
            Train(epochs=8, learning_rate=0.002),
            Shrink(budget=kprune.Budget(macs=0.5), epochs=0),
            Prune(plan=plan, epochs=4, distill=False),
            QuantizeAware(epochs=2),
        ),
        (
            Export("android"),
            Export({"name": "board", "like": "microcontroller"}, encode=True),
        ),
        batch_size=128,
        data="Fashion-MNIST",
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        (
            "batch_size:",
            "batchsize:",
            2,
            "unknown key 'batchsize' of 'recipe'. Did you ",
        ),
        (
            "batch_size:",
            "batchsize:",
            2,
            "mean 'batch_size'? Expected some of stages, ",
        ),
        ("train: {epochs", "train: {epoch", 4, "unknown key 'epoch' of 'train'. Did "),
        (
            "- train",
            "- trian",
            4,
            "'stages' takes one name with its arguments. Did you ",
        ),
        (
            "- train",
            "- trian",
            4,
            "Did you mean 'train'? Received trian. Expected one ",
        ),
        ("8, learning_rate: 2e-3", "0", 4, "'epochs': Train: `epochs` must be a whole"),
        ("{epochs: 8, learning_rate: 2e-3}", "", 4, "'train' is written as keys and v"),
        (
            "{macs: 0.5}",
            "{mac: 0.5}",
            7,
            "unknown key 'mac' of 'budget'. Did you mean ",
        ),
        (
            "{macs: 0.5}",
            "0.5",
            7,
            "'budget' is written as keys and values. Received 0.5",
        ),
        (
            "{macs: 0.5}",
            "{}",
            7,
            "'budget': Budget: give exactly one of params, macs, ",
        ),
        (
            "schedule: 0.8",
            "schedule: 80",
            12,
            "`sparsity` is the fraction of zeros and",
        ),
        ("schedule: 0.8", "schedule: 80", 12, "Did you mean 0.8?"),
        ("{block:", "{blok:", 12, "'granularity' takes one name with its arguments. D"),
        (
            "{block: {shape: [4, 1]}}",
            "blok",
            12,
            "'granularity': Unknown granularity '",
        ),
        ("{block: {shape: [4, 1]}}", "block", 12, "'block' needs the key 'shape'."),
        (
            "final_sparsity",
            "#",
            15,
            "'polynomial_decay' needs the key 'final_sparsity'",
        ),
        ("order: 2", "order: 0", 19, "'order': Magnitude: `order` must be 1 or 2. Rec"),
        ("end_step: {epochs: 2}", "end_step: 9", 15, "'polynomial_decay': PolynomialD"),
        (
            "distill: false",
            "epochs: 2",
            10,
            "the key 'epochs' of 'prune' is there twice",
        ),
        (
            "- quantize_aware: {",
            "- train: {",
            3,
            "'stages': Recipe: `stages`: Train co",
        ),
        (
            "android,",
            "androit,",
            21,
            "'export': Unknown `target`. Received: 'androit'.",
        ),
        ("android,", "[android,", 22, "this is no plain YAML: "),
        ("{epochs: 2}\nex", "&a [*a]\nex", 20, "write out what the alias stands for."),
        ("Fashion-MNIST", "!!bool maybe", 1, "this is no plain value: 'maybe'."),
        ("Fashion-MNIST", "!!timestamp now", 1, "this is no plain value: "),
        ("- train:", "- {? {a: b} : c}\n- train:", 4, "a key of 'stages' is no name"),
        ("- train:", "- ~:", 4, "a key of 'stages' is no name: None."),
        ("Fashion-MNIST", "!!python/name:os.system a", 1, "this is no plain value: co"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path, old, new, line, said):
    assert old in TEXT
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ValueError) as caught:
        Recipe.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ") and said in message


def test_a_file_is_written_and_read(tmp_path):
    recipe = Recipe.from_yaml(TEXT)
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    with pytest.raises(ValueError, match="Cannot read the recipe .*other.yaml"):
        Recipe.load(tmp_path / "other.yaml")
    with pytest.raises(ValueError, match="^recipe: it is empty"):
        Recipe.from_yaml("")
    with pytest.raises(ValueError, match="^recipe: it is nested too deeply"):
        Recipe.from_yaml("[" * 5000)


@pytest.mark.parametrize(
    "rule",
    [
        kprune.Rule(0.5, only=keras.layers.Dense),
        kprune.Rule(0.5, skip=lambda layer: True),
        *(kprune.Rule(s) for s in settings.SCHEDULES if isinstance(s, NO_TEXT)),
    ],
)
def test_what_is_no_text_is_refused(rule):
    recipe = Recipe(Prune(plan=rule, epochs=1))
    with pytest.raises(ValueError, match="cannot hold functions, layers and classes"):
        recipe.to_yaml()


TRAIN, PRUNE = Train(epochs=1), Prune(0.5, epochs=1)
AWARE = QuantizeAware(epochs=1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Recipe(()), "`stages` is empty"),
        (lambda: Recipe((PRUNE, TRAIN)), "Train comes first, and once"),
        (lambda: Recipe((AWARE, PRUNE)), "QuantizeAware comes last"),
        (lambda: Recipe((PRUNE, PRUNE)), "a second Prune would begin with the first"),
        (lambda: Recipe(TRAIN, ()), "at least one target, and each once"),
        (lambda: Recipe(TRAIN, ("android", "android")), "and each once. Received"),
        (lambda: Recipe(AWARE, Export("android", "none")), "QuantizeAware trains for"),
        (lambda: Recipe(TRAIN, "board.yaml"), "a recipe holds all that it needs"),
        (lambda: Recipe(TRAIN, batch_size=0), "`batch_size` must be a whole number"),
        (lambda: Recipe(TRAIN, seed=-1), "`seed` must be an integer of at least 0"),
        (lambda: Export("generic", encode=True), "encode=True is for target="),
        (lambda: Train(epochs=0), "Train: `epochs` must be a whole number of at least"),
        (lambda: Train(epochs=1, learning_rate=0), "`learning_rate` must be a number"),
        (lambda: Prune(epochs=1), "Prune: give `sparsity` or `plan`, and not both"),
        (lambda: Prune(0.5, epochs=1, alpha=1.5), "`alpha` is the teacher's share"),
        (lambda: Shrink(0.5, kprune.Budget(macs=0.5), epochs=1), "not both"),
        (lambda: Shrink(criterion="random", epochs=1), "say how many, too"),
        (lambda: QuantizeAware("fixed", epochs=1), "`ranges` must be one of"),
    ],
)
def test_what_does_not_work_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="`stages` must be stages of kprune.recipe"):
        Recipe(("train",))
    with pytest.raises(TypeError, match="`plan` must be a kprune.Plan"):
        Prune(plan=0.5, epochs=1)
    with pytest.raises(TypeError, match="`skip` takes names of layers in a recipe"):
        Shrink(0.5, skip=keras.layers.Dense, epochs=1)


def test_runs_that_cannot_be_are_refused_before_training(tmp_path, data):
    model, recipe = models.sequential(), Recipe((TRAIN, PRUNE, AWARE))

    def refused(said, recipe=recipe, model=model, data=data, folder="out"):
        with pytest.raises(ValueError, match=said):
            recipe.run(model, data, data, tmp_path / folder)

    refused("is not compiled. Compile it with the loss")
    models.compiled(model)
    refused("must be a Sequential or Functional model", model=models.Subclassed())
    refused("must be .x, y. or .x, y, sample_weight.", data=(data[0],))
    endless = tf_data(data).repeat()
    refused("a batched data set of known length", data=endless)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    refused("holds other files", folder="other")
    refused("cannot make the folder", folder="other/notes.txt")
    wrong = Recipe((TRAIN, Prune(plan=kprune.Rule(0.5, only="dence"), epochs=1)))
    refused("stage 2, prune: only: 'dence' matches nothing", recipe=wrong)
    skipping = Recipe(Shrink(0.5, skip="*", epochs=1))
    refused("stage 1, shrink: ", recipe=skipping)
    scheduled = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 9))
    models.compiled(model, scheduled)
    refused("stage 1, train, has no `learning_rate`")


def tf_data(data):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(data).batch(16)


def check_overview(out, result):
    """Looks at the page of a run that trained, shrank, pruned and trained for int8."""
    found = kprune.overview(out)
    data = json.loads(Page((out / "report.html").read_text()).data)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(data)
    assert data == json.loads(found.to_json())
    assert RecipeReport.from_dict(json.loads(result.report.to_json())) == result.report
    assert [fit.name for fit in found.fits] == [
        "1 train",
        "2 shrink",
        "3 prune",
        "4 quantize_aware",
    ]
    assert all(fit.steps == fit.epochs[-1].step == 6 for fit in found.fits)
    pruned = [fit.sparsity[-1][1] for fit in found.fits]
    assert pruned[:2] == [0.0, 0.0] and min(pruned[2:]) == pytest.approx(0.5, abs=0.02)
    refused = [item.reason for fit in found.fits for item in fit.refusals]
    assert any("it is an output of the model" in reason for reason in refused)
    assert found.compared == ("dense", "after prune")
    widths = [(layer.before.channels, layer.after.channels) for layer in found.layers]
    assert widths[0][1] < widths[0][0] and widths[-1][1] == widths[-1][0]
    assert found.recipe == (out / "recipe.yaml").read_text()
    assert found.machines[0]["versions"]["keras"] == keras.__version__
    assert all(file.sections["weights"].raw < file.size.raw for file in found.files)
    assert found.files[-1].metrics == result.report.rows[-1].metrics


def told(overview):
    """Returns what an overview tells beside the machine."""
    return overview.to_dict() | {"machines": ()}


@pytest.mark.slow
def test_the_whole_road(tmp_path, data):
    """On a data set, with a model that is not changed; then again from its middle."""
    model = models.compiled(models.sequential(), metrics=["accuracy"])
    before = model.get_weights()
    recipe = Recipe((TRAIN, Shrink(0.5, epochs=1), PRUNE, AWARE), batch_size=16)
    out = tmp_path / "out"
    result = recipe.run(model, data, tf_data(data), out, benchmark=False, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    rows = result.report.rows
    assert [row.stage for row in rows] == [
        "dense",
        "train",
        "shrink",
        "prune",
        "quantize_aware",
    ]
    assert [row.quantization for row in rows] == ["none", *["int8"] * 4]
    sizes = [row.size.raw for row in rows]
    assert sizes[0] > sizes[1] > sizes[2] and result.report.times_smaller(rows[-1]) > 2
    assert rows[-1].parameters < 0.7 * rows[0].parameters
    assert rows[2].sparsity < 0.05 and rows[3].sparsity > 0.4 and rows[4].sparsity > 0.4
    assert all(row.arena for row in rows)
    # What is trained for int8 computes the same in Keras as in the file.
    assert rows[-1].metrics["loss"] == pytest.approx(
        rows[-1].keras_metrics["loss"], abs=1e-3
    )
    assert rows[0].metrics["accuracy"] == rows[0].keras_metrics["accuracy"]
    assert "quantize_aware  microcontroller  int8" in str(result.report)
    assert (out / "report.json").read_text() == result.report.to_json()
    assert Recipe.load(out / "recipe.yaml") == recipe
    assert (out / "microcontroller.tflite").stat().st_size == sizes[-1]
    assert (out / "microcontroller.cc").exists()
    check_overview(out, result)

    again = tmp_path / "again"
    shutil.copytree(out, again)
    for name in ("model.keras", "report.json", "microcontroller.tflite"):
        (again / name).unlink()
    for pattern in ("3_*", "4_*", "microcontroller.json"):
        for file in (again / "stages").glob(pattern):
            file.unlink()
    resumed = recipe.run(model, data, tf_data(data), again, benchmark=False, verbose=0)
    assert resumed.report == result.report
    assert told(kprune.overview(again)) == told(kprune.overview(out))
    for one, other in zip(
        result.model.get_weights(), resumed.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        Recipe((TRAIN, AWARE)).run(model, data, data, again)


@pytest.fixture
def unmeasured(monkeypatch):
    """Recipes train, and neither try stages out before nor measure files."""
    for name, value in (("_try_out", None), ("_rows", []), ("_dense_rows", [])):
        monkeypatch.setattr(running.Running, name, lambda *_, value=value: value)


class Batches(keras.utils.PyDataset):
    """Draws samples by lot."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return 3

    def __getitem__(self, index):
        drawn = np.random.randint(0, len(self.data[0]), 16)
        return tuple(part[drawn] for part in self.data)


@pytest.mark.parametrize("kind", [tuple, Batches])
def test_a_stage_goes_on_from_its_last_epoch(
    tmp_path, data, unmeasured, monkeypatch, kind
):
    """Stopped in the second epoch of each stage, and once as an epoch is written."""
    L = keras.layers
    model = models.compiled(
        keras.Sequential(
            [L.Input((8, 8, 1)), L.Flatten(), L.Dense(6), L.Dropout(0.5), L.Dense(3)]
        )
    )
    stages = (Train(epochs=2), Prune(0.5, epochs=3), QuantizeAware(epochs=2))
    stops = []

    class Stopped(EpochKeeper):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            # Not before the last batch: the thread that draws them would go on beside
            # the next run, and take random numbers from it.
            if batch == 2 and stops[:1] == [(self._made.stem, self.epoch)]:
                del stops[0]
                raise KeyboardInterrupt

    monkeypatch.setattr(running, "EpochKeeper", Stopped)

    def run(folder):
        given = tmp_path / folder
        return Recipe(stages).run(model, kind(data), data, given, verbose=0)

    def kept():
        return [
            path.name for path in (tmp_path / "stopped/stages").glob("*_epoch_*.keras")
        ]

    def cut(*_):
        raise KeyboardInterrupt

    whole = run("whole")
    names = ["1_train", "2_prune", "3_quantize_aware"]
    stops += [(name, 1) for name in names]
    for name in names:
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
        assert kept() == [f"{name}_epoch_1.keras"]
    with monkeypatch.context() as patched:
        patched.setattr(epochs.os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    resumed = run("stopped")
    assert not [*(tmp_path / "stopped/stages").glob("*_epoch_*")]
    pairs = zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert resumed.report.fits == whole.report.fits


def test_a_recipe_shuffles_anew_in_each_epoch(tmp_path, unmeasured, monkeypatch):
    """Keras would repeat one order, since a recipe sets the seed."""
    orders, steps = [], []
    fit = keras.Model.fit

    def watched(model, x, **kwargs):
        orders.append([float(value) for each, _ in x for (value,) in each])
        history = fit(model, x, **kwargs)
        steps.append(int(model.optimizer.iterations))
        return history

    monkeypatch.setattr(keras.Model, "fit", watched)
    L = keras.layers
    model = models.compiled(keras.Sequential([L.Input((1,)), L.Dense(2)]))
    x = np.arange(10.0)[:, None]
    Recipe((Train(epochs=2), Prune(0.5, epochs=1)), batch_size=4).run(
        model, (x, np.arange(10) % 2), (x, np.arange(10) % 2), tmp_path, verbose=0
    )
    assert steps == [6, 3]
    assert [len(order) for order in orders] == [20, 10]
    assert orders[0][:10] != orders[0][10:]


def test_a_folder_that_lost_something_is_told_or_mended(tmp_path, data, monkeypatch):
    L = keras.layers
    model = models.compiled(
        keras.Sequential([L.Input((8, 8, 1)), L.Flatten(), L.Dense(3)])
    )
    recipe, stages = Recipe(Train(epochs=1), "generic"), tmp_path / "stages"

    def run():
        return recipe.run(model, data, data, tmp_path, benchmark=False, verbose=0)

    whole = run()
    for name in ("generic.json", "dense_generic.tflite"):
        (stages / name).write_bytes(b"")
    assert run().report == whole.report
    for file, content, said in (
        (stages / "1_train_fit.json", None, r"stage 1, train: .* remove '1_train.ker"),
        (stages / "1_train_fit.json", b"{", r"stage 1, train: .* remove '1_train.ker"),
        (stages / "1_train.keras", b"garbage", "is damaged. Put it back from a copy"),
        (stages / "0_given.keras", b"", "is damaged. Put it back from a copy; or rem"),
        (tmp_path / "recipe.yaml", None, "nothing says of which recipe: .* file back"),
    ):
        before = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            run()
        file.write_bytes(before)
    with monkeypatch.context() as patched:

        def closed(*_):
            raise PermissionError(13, "Permission denied", "0_given.keras")

        patched.setattr("zipfile.ZipFile.__init__", closed)
        with pytest.raises(PermissionError, match="denied: '0_given.keras'"):
            run()
    (tmp_path / "report.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="no whole run of a recipe: Unicode.* again"):
        kprune.overview(tmp_path)


@pytest.mark.slow
def test_zeros_and_channels_from_the_given_model(tmp_path, data):
    """Without `Train`; for a board that only the last file has to fit on, encoded."""
    model = models.compiled(models.sequential(), metrics=["accuracy"])
    channels = Prune(plan=kprune.Rule(0.5, granularity="channel"), epochs=1)
    shrink = Shrink(0.3, epochs=1, distill=False)
    board = {"name": "board", "like": "microcontroller", "flash": 2_700}
    recipe = Recipe(
        (channels, Shrink(epochs=0), PRUNE, shrink), Export(board, encode=True)
    )
    result = recipe.run(model, data, data, tmp_path, benchmark=False, verbose=0)
    dense, pruned, shrunk, sparse, last = result.report.rows
    assert dense.keras_metrics["loss"] == pytest.approx(
        model.evaluate(*data, verbose=0)[0], rel=1e-5
    )
    assert min(row.size.raw for row in result.report.rows[:-1]) > 2_700
    assert last.size.raw <= 2_700
    assert pruned.parameters == dense.parameters > 1.5 * shrunk.parameters
    assert shrunk.metrics["loss"] == pytest.approx(pruned.metrics["loss"], abs=0.05)
    assert sparse.sparsity > 0.4 and last.sparsity > 0.3  # Held while it is trained.
    assert last.parameters < sparse.parameters == shrunk.parameters
    assert not (tmp_path / "stages" / "partial_1_prune.keras").exists()
