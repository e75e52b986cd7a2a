"""The tensors of an ONNX graph by the names of the PyTorch modules that they came from."""

from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.untrusted import reading

# a group normalisation by the convolution that follows it, in the modules of guided-diffusion
BEFORE = {"in_layers.2": "in_layers.0", "out_layers.3": "out_layers.0", "qkv": "norm", "out.2": "out.0"}
BETWEEN = ("Sigmoid", "Mul", "Add", "AveragePool", "Resize")


def read_onnx(content: bytes, prefix: str = "network.") -> dict[str, np.ndarray]:
    """The parameters of a network of guided-diffusion's modules, exported by PyTorch; nothing of the graph is run.

    Exporters write a group normalisation as an instance normalisation, a product and a sum, whose constants have no
    names: each is named after the one convolution that the sum leads to.

    Args:
      content: of the file.
      prefix: of the names of the network's parameters in the graph.

    Raises:
      Refused: no ONNX file, one whose tensors lie in other files, or the onnx package is not installed; a graph of
        other modules.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise Refused('reading .onnx files needs onnx: pip install "guidance_jax[pretrained]"') from None
    with reading("no ONNX file: it"):
        graph = onnx.load_from_string(content).graph
    with reading("the graph of the ONNX file"):
        return _parameters(graph, prefix, numpy_helper.to_array)


def _parameters(graph: Any, prefix: str, to_array: Any) -> dict[str, np.ndarray]:
    """The parameters of a graph; `to_array` reads a tensor, and would follow its path into another file."""
    outside = [t.name for t in graph.initializer if t.data_location or t.external_data]
    if outside:
        raise Refused(f"the tensor {outside[0][:200]} lies in another file; save the model as one file")
    constants = {t.name: t for t in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    state = {name.removeprefix(prefix): to_array(t) for name, t in constants.items() if name.startswith(prefix)}

    def constant(value: str, kind: str) -> tuple[np.ndarray, str]:
        """The vector by which the only `kind` that reads `value` changes it, and its output."""
        nodes = [node for node in readers.get(value, []) if node.op_type == kind]
        others = [name for name in nodes[0].input if name in constants] if len(nodes) == 1 else []
        if len(others) != 1:
            raise Refused(f"the graph has no single {kind} with a constant after {value}: another exporter's")
        return to_array(constants[others[0]]).reshape(-1), nodes[0].output[0]

    def convolution(value: str) -> str:
        """The module of the first convolution that `value` leads to."""
        found, seen, todo = set(), set(), [value]
        while todo:
            for node in readers.get(todo.pop(), []):
                if node.op_type == "Conv":
                    found.add(node.input[1].removeprefix(prefix).removesuffix(".weight"))
                elif node.op_type not in BETWEEN:
                    raise Refused(f"a {node.op_type} comes between a normalisation and its convolution")
                elif node.output[0] not in seen:
                    seen.add(node.output[0])
                    todo.append(node.output[0])
        if len(found) != 1:
            raise Refused(f"a normalisation leads to {len(found)} convolutions, expected one")
        return found.pop()

    for node in graph.node:
        if node.op_type != "InstanceNormalization":
            continue
        back = readers[node.output[0]][0]
        weight, value = constant(back.output[0], "Mul")
        bias, value = constant(value, "Add")
        module = convolution(value)
        tails = [tail for tail in BEFORE if module == tail or module.endswith(f".{tail}")]
        if not tails:
            raise Refused(f"no normalisation is known before {module}")
        name = module.removesuffix(tails[0]) + BEFORE[tails[0]]
        if f"{name}.weight" in state:
            raise Refused(f"two normalisations belong to {module}")
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias
    return state
