"""Whether XNNPACK, LiteRT's CPU engine, skips the zeros of a file, and does it right.

This module changes when XNNPACK does. It reads a file's graph and takes the decision
that XNNPACK takes when it loads a file with sparsely stored weights: it looks for parts
of the graph that it can compute with channels before height and width (NCHW), for which
alone it has kernels that skip zeros. Such a part begins with a 3x3 convolution of
stride 2 on three channels, goes on with 1x1 convolutions, depthwise convolutions and
element-wise operators, and ends in a mean over height and width.

Where a part ends in anything else, XNNPACK computes wrong numbers or cannot load the
file: such a file must not be written. The decision is taken on every CPU but x86 with
AVX, so that most machines on which models are trained never show what phones do.

Source: `xnn_subgraph_rewrite_for_nchw` in
https://github.com/google/XNNPACK/blob/master/src/subgraph.c. The tests compare each
verdict with what the runtime does on an emulated CPU without AVX, and
`python -m benchmarks.xnnpack` times it.
"""

import dataclasses
import enum
from collections.abc import Callable

from kprune.export.cost import nonzeros
from kprune.export.origin import told
from kprune.export.tflite import (
    UNPACKING,
    Operator,
    Subgraph,
    Tensor,
    TFLiteFile,
    Window,
)


class Outcome(enum.Enum):
    """What XNNPACK does with the zeros of sparsely stored weights."""

    SKIPS = "skips zeros"
    MULTIPLIES = "multiplies zeros"
    WRONG = "computes wrongly or does not load"


@dataclasses.dataclass(frozen=True)
class Layer:
    """One operator with weights.

    Args:
        operator: Its position in the main graph.
        weights: The index of the tensor that stores its weights.
        candidate: Whether it is of a kind that can skip zeros, a 1x1 convolution.
        reason: Why its zeros are not skipped; empty if they are.
    """

    operator: int
    weights: int
    candidate: bool
    reason: str

    @property
    def skips(self) -> bool:
        """Whether its zeros are skipped."""
        return not self.reason


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What XNNPACK does with a file.

    Args:
        outcome: With the whole.
        layers: With each operator that has weights, in the order of the graph.
        mistakes: What would be wrong with the results, each once.
    """

    outcome: Outcome
    layers: tuple[Layer, ...]
    mistakes: tuple[str, ...]


_UNARY = frozenset(
    """
    ABS CEIL COS ELU EXP FLOOR GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC NEG RELU RELU6
    RELU_N1_TO_1 ROUND RSQRT SIN SQRT SQUARE TANH
    """.split()
)
_REDUCTIONS = frozenset(("MEAN", "SUM"))
_WEIGHTED = frozenset(
    ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
)
# Operators that XNNPACK computes besides those above and below, as far as it matters
# here: by what else it computes it knows that a value is read elsewhere.
_XNNPACKS = frozenset(
    """
    ADD AVERAGE_POOL_2D CONV_2D DEPTHWISE_CONV_2D DIV MAXIMUM MAX_POOL_2D MINIMUM MUL
    PRELU SOFTMAX SUB
    """.split()
)
_MOST_CONCATENATED = 4
_SPATIAL = {1, 2}
_NO_END = (
    "nothing that it leads to is a mean over height and width (GlobalAveragePooling2D)"
)
_UNPADDED = (0, 0, 0, 0)


@dataclasses.dataclass
class _Node:
    """One operator as XNNPACK sees it: with the padding that precedes it.

    Attributes:
        place: Its position among the nodes.
        position: Its position in the graph.
        operator: The operator.
        inputs: The tensors that it reads and that are made while the model runs.
        padding: Rows above and below, columns left and right; `None` if the runtime
            finds it out itself.
        enters: Whether it turns NHWC into NCHW.
        inside: Whether it computes in NCHW.
        leaves: Whether it turns NCHW into NHWC.
        unfit: Why it does none of these.
        trouble: Why the part that it leads or belongs to stays in NHWC.
        part: The place of the node that leads its part.
        called: What it is called in messages.
    """

    place: int
    position: int
    operator: Operator
    inputs: tuple[int, ...]
    padding: tuple[int, int, int, int] | None = _UNPADDED
    enters: bool = False
    inside: bool = False
    leaves: bool = False
    unfit: str = ""
    trouble: str = ""
    part: int = 0
    called: str = ""


def judge(file: TFLiteFile, nonzero: Callable[[Tensor], int] = nonzeros) -> Verdict:
    """Returns what XNNPACK does with a file, if its zeros are stored sparsely.

    Args:
        file: A file that the converter wrote, with float32 or float16 weights that are
            stored sparsely or not.
        nonzero: Returns how many elements of a weight are not zero, to ask what would
            be with other weights.
    """
    return _Judge(file.subgraphs[0], nonzero).verdict()


class _Judge:
    def __init__(self, graph: Subgraph, nonzero: Callable[[Tensor], int]) -> None:
        self.graph = graph
        self.nodes = _nodes(graph)
        self.made = {i: node for node in self.nodes for i in node.operator.outputs}
        if self._find_parts():
            self._check_readers()
        else:
            ends = [node.trouble for node in self.nodes if node.leaves]
            for node in self.nodes:
                node.trouble = node.trouble or next(iter(ends), _NO_END)
        self.params, self.zeros = self._count(nonzero)

    def verdict(self) -> Verdict:
        """Returns what becomes of the whole, and of each layer."""
        layers = tuple(
            Layer(
                node.position,
                weights.index,
                node.operator.name == "CONV_2D" and weights.shape[1:3] == (1, 1),
                self._why_not(node),
            )
            for node in self.nodes
            if (weights := _weights(self.graph, node.operator)) is not None
        )
        mistakes = tuple(
            dict.fromkeys(
                mistake for node in self.nodes if (mistake := self._mistake(node))
            )
        )
        outcome = Outcome.MULTIPLIES
        if mistakes:
            outcome = Outcome.WRONG
        elif any(layer.skips for layer in layers):
            outcome = Outcome.SKIPS
        return Verdict(outcome, layers, mistakes)

    def _find_parts(self) -> bool:
        """Gives connected nodes one leader; returns whether any part has an end."""
        ends = [node for node in self.nodes if node.leaves]
        if not any([self._join(node) for node in ends]):
            return False
        members = [node for node in self.nodes if node.inside or node.leaves]
        while any([self._join(node) for node in members if not node.trouble]):
            pass
        for node in self.nodes:
            leader = self.nodes[node.part]
            leader.trouble = leader.trouble or node.trouble
        return True

    def _join(self, node: _Node) -> bool:
        """Puts a node into the part of what makes its inputs; returns if any changed.

        A node whose input is made by none of a part is in trouble.
        """
        changed = False
        for index in node.inputs:
            maker = self.made.get(index)
            if maker is None:
                node.trouble = node.trouble or f"{node.called} reads the model's input"
            elif (maker.enters or maker.inside) and not maker.trouble:
                maker.leaves = False
                changed |= maker.part != node.part
                maker.part = node.part = max(maker.part, node.part)
            else:
                node.trouble = (
                    node.trouble
                    or maker.trouble
                    or maker.unfit
                    or f"{maker.called} leaves the part that skips zeros"
                )
        return changed

    def _check_readers(self) -> None:
        """Finds trouble where what a part computes is read outside of it, too."""
        members = [node for node in self.nodes if self._takes_part(node)]
        read_by_members = {i: node for node in members for i in node.inputs}
        outsiders = [node for node in self.nodes if not self._takes_part(node)]
        for outsider in outsiders:
            for index in read_by_members.keys() & set(outsider.inputs):
                # XNNPACK does not see what reads a value outside of it.
                if _is_xnnpacks(outsider.operator):
                    leader = self.nodes[read_by_members[index].part]
                    why = outsider.unfit or self.nodes[outsider.part].trouble
                    leader.trouble = leader.trouble or (
                        f"what {self.made[index].called} makes is read elsewhere, too: "
                        f"{why}"
                    )

    def _takes_part(self, node: _Node) -> bool:
        return (node.inside or node.leaves) and not self.nodes[node.part].trouble

    def _count(
        self, nonzero: Callable[[Tensor], int]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Returns by part the elements, and the zeros, that XNNPACK counts."""
        params: dict[int, int] = {}
        zeros: dict[int, int] = {}
        for node in self.nodes:
            weights = _weights(self.graph, node.operator)
            if weights is not None and _is_counted(node.operator, weights):
                kept = nonzero(weights)
                params[node.part] = params.get(node.part, 0) + weights.size
                zeros[node.part] = zeros.get(node.part, 0) + weights.size - kept
        return params, zeros

    def _enough(self, part: int) -> bool:
        return 3 * self.zeros.get(part, 0) > 2 * self.params.get(part, 0)

    def _switched(self, node: _Node) -> bool:
        """Returns whether a node reads NCHW."""
        return self._takes_part(node) and self._enough(node.part)

    def _why_not(self, node: _Node) -> str:
        """Returns why a layer's zeros are multiplied; empty if they are skipped."""
        weights = _weights(self.graph, node.operator)
        if node.operator.name == "DEPTHWISE_CONV_2D":
            return "depthwise convolutions have no kernel that skips zeros"
        if node.operator.name == "FULLY_CONNECTED":
            return "dense layers have no kernel that skips scattered zeros"
        if weights is None or not _is_counted(node.operator, weights):
            return "only 1x1 convolutions have a kernel that skips zeros"
        if not node.inside:
            return node.unfit
        if trouble := self.nodes[node.part].trouble:
            return trouble
        # Measured; not relied on where it would make a file right.
        for other in self.nodes:
            if other.part == node.part and _adds_to_itself(other):
                return f"{other.called} adds a value to itself"
        if not self._enough(node.part):
            share = self.zeros[node.part] / self.params[node.part]
            return (
                f"{share:.3f} of the weights of the 1x1 convolutions and dense layers "
                "that it is computed with are zero, and more than 2/3 must be"
            )
        return ""

    def _mistake(self, node: _Node) -> str:
        """Returns what XNNPACK does wrongly at a node; empty for nothing."""
        if not self._switched(node):
            return ""
        tensors, operator = self.graph.tensors, node.operator
        if operator.name in _REDUCTIONS and _axes(self.graph, operator) != _SPATIAL:
            return f"{node.called} is over other axes than height and width"
        # XNNPACK gives a value its layout where it is read, and looks at nothing else.
        index = operator.outputs[0]
        readers = [reader for reader in self.nodes if index in reader.inputs]
        others = [reader for reader in readers if not self._switched(reader)]
        if node.leaves or len(tensors[index].shape) != 4:
            return ""
        if index in self.graph.outputs:
            return f"what {node.called} makes is an output of the model, in NCHW"
        if others:
            return (
                f"nothing turns what {node.called} makes into NHWC again: "
                f"{others[0].unfit or self.nodes[others[0].part].trouble}"
            )
        return ""


def _nodes(graph: Subgraph) -> list[_Node]:
    """Returns the operators that XNNPACK sees, each with what it can do."""
    constants = {t.index for t in graph.tensors if t.values is not None}
    pads: dict[int, tuple[int, tuple[int, int, int, int]]] = {}
    nodes: list[_Node] = []
    for position, operator in enumerate(graph.operators):
        inputs = tuple(i for i in operator.inputs if i >= 0 and i not in constants)
        if operator.name in UNPACKING and not inputs:
            constants |= set(operator.outputs)
            continue
        padding = _padding(graph, operator)
        if padding is not None and len(_readers(graph, operator.outputs[0])) == 1:
            pads[operator.outputs[0]] = (position, padding)
        nodes.append(_Node(len(nodes), position, operator, inputs))
    fused = set()
    for node in nodes:
        window = node.operator.window
        if window is None:
            continue
        node.padding = _own_padding(graph, node.operator, window)
        kernel = _kernel(graph, node.operator)
        if node.inputs and node.inputs[0] in pads and kernel != (1, 1):
            position, node.padding = pads[node.inputs[0]]
            fused.add(position)
            read = graph.operators[position].inputs[0]
            node.inputs = (read, *node.inputs[1:])
    left = [node for node in nodes if node.position not in fused]
    for place, node in enumerate(left):
        node.place = node.part = place
        node.called = told(graph, node.position)
        _set_roles(graph, node)
    return left


def _readers(graph: Subgraph, index: int) -> list[Operator | None]:
    """Returns what reads a tensor; `None` stands for the model's user."""
    readers: list[Operator | None] = [
        operator for operator in graph.operators if index in operator.inputs
    ]
    return readers + [None] * graph.outputs.count(index)


def _adds_to_itself(node: _Node) -> bool:
    return node.operator.name == "ADD" and len(set(node.inputs)) < len(node.inputs)


def _is_xnnpacks(operator: Operator) -> bool:
    if operator.name == "CONCATENATION":
        return len(operator.inputs) <= _MOST_CONCATENATED
    return operator.name in _XNNPACKS


def _padding(graph: Subgraph, operator: Operator) -> tuple[int, int, int, int] | None:
    """Returns what a padding operator adds around height and width, if nothing else."""
    if operator.name != "PAD" or len(operator.inputs) != 2:
        return None
    amounts = graph.tensors[operator.inputs[1]].array
    if amounts is None or amounts.shape != (4, 2) or amounts[[0, 3]].any():
        return None
    (top, bottom), (left, right) = amounts[1:3].tolist()
    return top, bottom, left, right


def _kernel(graph: Subgraph, operator: Operator) -> tuple[int, ...]:
    """Returns height and width of a convolution's kernel."""
    return graph.tensors[operator.inputs[1]].shape[1:3]


def _own_padding(
    graph: Subgraph, operator: Operator, window: Window
) -> tuple[int, int, int, int] | None:
    """Returns how a convolution pads; `None` where XNNPACK leaves it open."""
    if not window.same:
        return _UNPADDED
    if window.strides != (1, 1):
        return None
    height, width = (
        (size - 1) * dilation
        for size, dilation in zip(
            _kernel(graph, operator), window.dilations, strict=True
        )
    )
    top, left = height // 2, width // 2
    return top, height - top, left, width - left


def _set_roles(graph: Subgraph, node: _Node) -> None:
    """Says what a node can do in NCHW, or why nothing."""
    operator = node.operator
    rank = len(_shape(graph.tensors, node))
    name, said = operator.name, node.called
    if not _computes_in_floats(graph, node):
        node.unfit = f"{said} does not compute in floating point"
    elif name == "CONV_2D":
        _set_convolution(graph, node)
    elif name == "DEPTHWISE_CONV_2D":
        node.unfit = _unfit_depthwise(graph, node)
        node.inside = not node.unfit
    elif name == "FULLY_CONNECTED" and rank == 4:
        node.inside = True
    elif name in _REDUCTIONS and rank == 4:
        node.inside = node.leaves = True
    elif name == "DEPTH_TO_SPACE":
        node.leaves = True
    elif name in _UNARY and rank == 4:
        node.inside = True
    elif name in ("ADD", "MUL"):
        node.inside = all(len(graph.tensors[i].shape) == 4 for i in operator.inputs)
        if not node.inside:
            node.unfit = (
                f"{said} has an operand of fewer than four dimensions, such as a "
                "constant"
            )
    elif name == "RESIZE_BILINEAR" and min(_shape(graph.tensors, node)[1:3]) > 1:
        node.inside = True
    else:
        node.unfit = (
            f"{said} is none of the operators that go with those that skip zeros"
        )


def _set_convolution(graph: Subgraph, node: _Node) -> None:
    weights, window = _weights(graph, node.operator), node.operator.window
    said = node.called
    if weights is None or window is None:
        node.unfit = f"{said} has weights that are no constants"
        return
    channels = _shape(graph.tensors, node)[3]
    kernel = weights.shape[1:3]
    if channels != weights.shape[3]:
        node.unfit = f"{said} has groups"
    elif kernel == (1, 1):
        node.inside = window.strides == (1, 1) and node.padding == _UNPADDED
        if not node.inside:
            node.unfit = f"{said} is 1x1 and has strides or padding"
    elif kernel != (3, 3) or window.strides != (2, 2) or channels != 3:
        node.unfit = (
            f"{said} is {kernel[0]}x{kernel[1]} with a stride of {window.strides[0]} "
            f"on {channels} channels. Besides 1x1 only the first convolution goes "
            "with those that skip zeros, 3x3 with a stride of 2 on 3 channels"
        )
    elif node.padding != (1, 1, 1, 1) or window.dilations != (1, 1):
        node.unfit = _badly_padded(node, 1)
    else:
        node.enters = True


def _unfit_depthwise(graph: Subgraph, node: _Node) -> str:
    weights, window = _weights(graph, node.operator), node.operator.window
    said = node.called
    if weights is None or window is None:
        return f"{said} has weights that are no constants"
    kernel, strides = weights.shape[1:3], window.strides
    if window.dilations != (1, 1):
        return f"{said} is dilated"
    if weights.shape[3] != _shape(graph.tensors, node)[3]:
        return f"{said} makes several channels of each"
    if kernel not in ((3, 3), (5, 5)) or strides not in ((1, 1), (2, 2)):
        return (
            f"{said} is {kernel[0]}x{kernel[1]} with strides of {strides[0]} and "
            f"{strides[1]}; it must be 3x3 or 5x5, with 1 or 2"
        )
    margin = kernel[0] // 2
    if node.padding != (margin,) * 4:
        return _badly_padded(node, margin)
    return ""


def _badly_padded(node: _Node, margin: int) -> str:
    return (
        f"{node.called} must be padded by {margin} on all four sides: put "
        f"ZeroPadding2D({margin}) before it and set padding='valid', and give it an "
        "even height and width if it has a stride of 2"
    )


def _computes_in_floats(graph: Subgraph, node: _Node) -> bool:
    indices = [*node.inputs, *node.operator.outputs]
    weights = _weights(graph, node.operator)
    types = {graph.tensors[index].type for index in indices}
    if weights is not None:
        types.add(weights.type)
    return types <= {"FLOAT32", "FLOAT16"}


def _weights(graph: Subgraph, operator: Operator) -> Tensor | None:
    """Returns an operator's weights as they are stored; `None` if it has none."""
    if operator.name not in _WEIGHTED or len(operator.inputs) < 2:
        return None
    tensor = graph.stored(operator.inputs[1])
    return None if tensor.values is None else tensor


def _is_counted(operator: Operator, weights: Tensor) -> bool:
    if operator.name == "FULLY_CONNECTED":
        return True
    return operator.name == "CONV_2D" and weights.shape[1:3] == (1, 1)


def _axes(graph: Subgraph, operator: Operator) -> set[int]:
    axes = graph.tensors[operator.inputs[1]].array
    rank = len(graph.tensors[operator.inputs[0]].shape)
    return set() if axes is None else {int(axis) % rank for axis in axes.reshape(-1)}


def _shape(tensors: tuple[Tensor, ...], node: _Node) -> tuple[int, ...]:
    """Returns the shape of what a node reads, whatever pads it."""
    index = node.operator.inputs[0]
    return tensors[index].shape if index >= 0 else ()
