"""Units of recurrent layers, with all their gates."""

import keras
import pytest
from cases import around, groups, mask_of, proven, why_fixed

L = keras.layers
LAYERS = [L.SimpleRNN, L.GRU, L.LSTM]

# The states that a layer gives back have two axes, so that Dense takes them as well.
each = pytest.mark.parametrize("layer", LAYERS)


def removed(model, unit=2):
    """Returns per weight of the recurrent layer which of its last axis go."""
    (name,) = [name for name in groups(model) if not name.startswith("before")]
    masks = mask_of(model, name, unit)
    return {
        path.split("/")[-1]: sorted({index[-1] for index in indices})
        for path, indices in masks.items()
        if not path.startswith("after") and "recurrent" not in path
    }, masks


def test_an_lstm_loses_a_unit_with_its_four_gates():
    columns, masks = removed(around(L.LSTM(4, name="lstm"), (5, 3)))
    assert columns == {"kernel": [2, 6, 10, 14], "bias": [2, 6, 10, 14]}
    assert masks["after_0/kernel"] == [(2, 0)]


def test_a_gru_loses_a_unit_with_its_three_gates_and_both_biases():
    columns, masks = removed(around(L.GRU(4, name="gru"), (5, 3)))
    assert columns == {"kernel": [2, 6, 10], "bias": [2, 6, 10]}
    assert masks["gru/gru_cell/bias"] == [(0, 2), (0, 6), (0, 10)]


def test_a_gru_that_resets_before_has_one_bias():
    model = around(L.GRU(4, reset_after=False), (5, 3))
    assert removed(model)[0] == {"kernel": [2, 6, 10], "bias": [2, 6, 10]}
    proven(model)


def test_a_unit_is_also_a_row_of_the_recurrent_kernel():
    model = around(L.LSTM(4, name="lstm"), (5, 3))
    masks = mask_of(model, "lstm units", 2)
    small = proven(model).get_layer("lstm")
    assert small.get_config()["units"] == 2
    assert tuple(small.cell.recurrent_kernel.shape) == (2, 8)
    assert "lstm/lstm_cell/recurrent_kernel" in masks


@each
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("return_state", [False, True])
def test_outputs_and_states_agree(layer, return_sequences, return_state):
    proven(
        around(
            layer(4, return_sequences=return_sequences, return_state=return_state),
            (5, 3),
        )
    )


@each
def test_sequences_may_be_read_backwards_and_without_bias(layer):
    proven(around(layer(4, go_backwards=True, use_bias=False), (5, 3)))


@each
def test_units_go_with_the_states_they_begin_with(layer):
    inputs, states = L.Input((5, 3)), 2 if layer is L.LSTM else 1
    begin = [L.Dense(4, name=f"state_{i}")(L.Flatten()(inputs)) for i in range(states)]
    x = layer(4, name="rnn")(inputs, initial_state=begin)
    model = keras.Model(inputs, L.Dense(2)(x))
    assert groups(model) == {"state_0 units": 4}
    proven(model)


def test_a_state_of_fixed_size_fixes_the_units():
    inputs, state = L.Input((5, 3)), L.Input((4,))
    x = L.GRU(4, name="rnn")(inputs, initial_state=state)
    reason = why_fixed(keras.Model([inputs, state], L.Dense(2, name="after")(x)))
    assert reason == {
        "rnn units": "GRU 'rnn' begins with a state of a fixed number of channels"
    }


def test_units_that_keep_their_state_between_calls_stay():
    inputs = L.Input(batch_shape=(4, 5, 3))
    x = L.LSTM(4, stateful=True, name="rnn")(L.Dense(6, name="before")(inputs))
    model = keras.Model(inputs, L.Dense(2, name="after")(x))
    assert why_fixed(model) == {
        "rnn units": "LSTM 'rnn' keeps its state between calls (stateful=True)"
    }
    assert groups(model) == {"before units": 6}
    proven(model)


def test_activations_that_are_not_known_fix_the_units():
    model = around(L.LSTM(4, activation=lambda x: x, name="rnn"), (5, 3))
    assert "activation '<lambda>' is not known" in why_fixed(model)["rnn units"]
    model = around(L.GRU(4, recurrent_activation="softmax", name="rnn"), (5, 3))
    assert why_fixed(model)["rnn units"] == (
        "GRU 'rnn': its recurrent activation 'softmax' is not known to work element by "
        "element"
    )


def test_an_activation_that_is_not_zero_at_zero_is_followed():
    proven(around(L.LSTM(4, activation="sigmoid"), (5, 3)))


@pytest.mark.parametrize("cell", [L.SimpleRNNCell, L.GRUCell, L.LSTMCell])
def test_cells_in_a_general_layer_agree(cell):
    model = around(L.RNN(cell(4, name="cell"), return_state=True, name="rnn"), (5, 3))
    assert groups(model)["rnn/cell units"] == 4
    proven(model)


def test_stacked_cells_have_groups_of_their_own():
    cells = [L.LSTMCell(4, name="first"), L.GRUCell(6, name="second")]
    stack = L.StackedRNNCells(cells, name="stack")
    model = around(L.RNN(stack, return_state=True, name="rnn"), (5, 3))
    assert groups(model) == {
        "before_0 units": 8,
        "rnn/stack/first units": 4,
        "rnn/stack/second units": 6,
    }
    proven(model)


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("return_state", [False, True])
def test_both_directions_lose_the_same_units(merge_mode, return_state):
    inner = L.LSTM(4, return_sequences=True, return_state=return_state, name="lstm")
    model = around(L.Bidirectional(inner, merge_mode, name="both"), (5, 3))
    assert groups(model) == {"before_0 units": 8, "both/forward_lstm units": 4}
    small = proven(model).get_layer("both")
    assert small.forward_layer.units == small.backward_layer.units == 2


def test_the_first_half_of_states_is_for_the_forward_direction():
    inputs = L.Input((5, 3))
    begin = [L.Dense(4, name=f"state_{i}")(L.Flatten()(inputs)) for i in range(2)]
    x = L.Bidirectional(L.GRU(4))(inputs, initial_state=begin)
    proven(keras.Model(inputs, L.Dense(2)(x)))


def test_directions_that_differ_are_a_barrier():
    backward = L.LSTM(4, go_backwards=True)
    model = around(L.Bidirectional(L.GRU(4), backward_layer=backward), (5, 3))
    assert "has directions that differ" in why_fixed(model)["before_0 units"]


def test_padding_is_masked_as_before():
    inputs = L.Input((6,), dtype="int32")
    x = L.Embedding(9, 5, mask_zero=True, name="embedding")(inputs)
    x = L.GRU(4, name="gru")(x)
    model = keras.Model(inputs, L.Dense(2, name="after")(x))
    assert groups(model) == {"embedding dimensions": 5, "gru units": 4}
    proven(model)


def test_a_shared_layer_is_one():
    rnn = L.LSTM(4, name="rnn")
    model = around(lambda x, y: L.Subtract()([rnn(x), rnn(y)]), (5, 3), (6, 3))
    assert sorted(groups(model).values()) == [4, 8]
    proven(model)


def test_stacked_cells_run_both_ways():
    stack = L.RNN([L.GRUCell(4), L.LSTMCell(6)], return_sequences=True)
    model = around(L.Bidirectional(stack, name="both"), (5, 3))
    assert sorted(groups(model).values()) == [4, 6, 8]
    proven(model)


def test_a_subclass_of_the_general_layer_is_a_barrier():
    class Own(L.RNN):
        pass

    model = around(Own(L.GRUCell(4), name="own"), (5, 3))
    assert "'own' is a subclass of RNN" in why_fixed(model)["before_0 units"]


def test_cells_and_layers_without_a_rule_are_barriers():
    @keras.saving.register_keras_serializable("tests")
    class Cell(L.LSTMCell):
        pass

    model = around(L.RNN(Cell(4), name="rnn"), (5, 3))
    assert why_fixed(model)["before_0 units"] == (
        "RNN 'rnn' runs Cell, which has no coupling rule"
    )
    both = L.Bidirectional(L.RNN(Cell(4)), name="both")
    assert why_fixed(around(both, (5, 3)))["before_0 units"] == (
        "Bidirectional 'both' runs Cell, which has no coupling rule"
    )
    model = around(L.ConvLSTM1D(4, 3, name="conv"), (5, 6, 3))
    reason = why_fixed(model)["before_0 units"]
    assert reason.startswith("ConvLSTM1D 'conv' has no coupling rule")
