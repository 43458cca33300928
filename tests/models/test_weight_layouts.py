"""Weights in files of any layout: found by what fits, and named where nothing or too much does."""

import copy

import pytest
import safetensors.torch
import torch
from torch import nn

from micronet.models import architectures
from micronet.train import main
from weight_files import assert_refused, assert_same, loaded, small, starting

NESTINGS = {
    "the state": lambda s: s,
    "model_state_dict": lambda s: {"epoch": 5, "model_state_dict": s, "loss": 0.31},
    "net": lambda s: {"net": s, "acc": 92.1, "epoch": 7},
    "network": lambda s: {"network": s},
    "params": lambda s: {"params": s},
    "a name of one's own": lambda s: {"generator of 2019": s},
    "deep": lambda s: {"a": {"b": {"c": [{"d": ({"weights": s}, 3)}]}}},
    "a list": lambda s: [s, {"lr": 0.1}],
    "a tuple": lambda s: (7, s),
    "pairs": lambda s: list(s.items()),
    "pairs below": lambda s: {"weights": tuple(s.items()), "epoch": 3},
    "with its optimizer": lambda s: {
        "model": s,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(16, 3, 3, 3)}}},
        "scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
        "args": {"arch": "resnet20"},
        "rng": torch.zeros(5, dtype=torch.uint8),
    },
    "a number for a name": lambda s: {0: s},
}
STARTS = ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone."]
STARTS += ["encoder.", "model.backbone.module.", "module.module.", "student_net.0."]
BOTH = [(nesting, "") for nesting in NESTINGS] + [("net", start) for start in STARTS]
BOTH += [(nesting, "module._orig_mod.") for nesting in NESTINGS]


@pytest.mark.parametrize("nesting,start", BOTH)
def test_any_nesting_and_any_beginning(nesting, start, source, tmp_path, capsys):
    torch.save(NESTINGS[nesting](starting(start, source.state_dict())), tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), source.state_dict())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("start", STARTS)
def test_safetensors_of_any_beginning(start, source, tmp_path):
    safetensors.torch.save_file(starting(start, source.state_dict()), tmp_path / "w.safetensors")
    assert_same(loaded(tmp_path / "w.safetensors"), source.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl"])
def test_suffixes(suffix, source, tmp_path):
    torch.save({"state_dict": source.state_dict()}, tmp_path / f"w{suffix}")
    assert_same(loaded(tmp_path / f"w{suffix}"), source.state_dict())


def test_states_of_modules_apart(source, tmp_path):
    state = source.state_dict()
    parts = {
        part: {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
        for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "fc")
    }
    torch.save(parts, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), state)


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_between_the_names(wrapper, source, tmp_path):
    """As parallel or compiled parts of a network leave them."""
    state = source.state_dict()
    inside = {k.replace("layer2.", f"layer2.{wrapper}."): v for k, v in state.items()}
    torch.save(inside, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), state)


def test_a_network_whose_own_parts_are_named_like_wrappers(tmp_path):
    network = nn.ModuleDict({"module": nn.Linear(3, 2), "other": nn.Linear(3, 2)})
    both = nn.ModuleDict({"module": nn.ModuleDict({"a": nn.Linear(3, 2)}), "a": nn.Linear(3, 2)})
    for net in (network, both):
        state = {k: torch.randn_like(v) for k, v in net.state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "w.pth")
        assert_same(loaded(tmp_path / "w.pth", net), state)


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.backbone = inner


@pytest.mark.parametrize("start", ["", "module.", "net.backbone.", "backbone."])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_network_around_another_takes_the_weights_of_either(depth, start, source, tmp_path):
    torch.save({"state_dict": starting(start, source.state_dict())}, tmp_path / "w.pth")
    network = inner = architectures.create_model("resnet20", 10)
    for _ in range(depth):
        network = Around(network)
    architectures.load_weights(network, tmp_path / "w.pth")
    assert_same(inner, source.state_dict())


def test_a_layer_alone_is_not_looked_for_by_its_last_name(tmp_path):
    torch.save({"body.weight": torch.ones(2, 3), "body.bias": torch.ones(2)}, tmp_path / "w.pth")
    assert_refused(tmp_path / "w.pth", "none of its names", network=nn.Sequential(nn.Linear(3, 2)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_takes_the_weights_of_a_plain_one(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "w.pth")
    compiled = torch.compile(architectures.create_model("resnet20", 10))
    architectures.load_weights(compiled, tmp_path / "w.pth")
    assert_same(compiled._orig_mod, source.state_dict())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_a_whole_module(nested, parallel, legacy, source, tmp_path, recwarn):
    whole = copy.deepcopy(source)
    whole.layer1.register_buffer("grid", torch.ones(3), persistent=False)
    found = nn.DataParallel(whole) if parallel else whole
    found = {"model": found, "epoch": 3} if nested else found
    torch.save(found, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert_same(loaded(tmp_path / "w.pth"), source.state_dict())


@pytest.mark.parametrize(
    "first,average",
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("net", "ema_net"),
        ("model", "swa_model"),
        ("params", "params.ema"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_of_a_network_and_its_average_the_average_is_taken(
    first, average, swapped, source, tmp_path, capsys
):
    state = source.state_dict()
    other = {k: v + 1 for k, v in state.items()}
    found = {first: other, average: starting("module.", state)}
    torch.save(dict(reversed(found.items())) if swapped else found, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), state)
    note = capsys.readouterr().err
    assert note.startswith("note: ") and note.count("\n") == 1
    assert repr(average) in note and repr(first) in note


@pytest.mark.parametrize("beside", [False, True])
def test_an_average_of_torch_itself(beside, source, tmp_path, capsys):
    average = torch.optim.swa_utils.AveragedModel(source)
    other = {k: v + 1 for k, v in source.state_dict().items()}
    found = {"ema": average.state_dict()} | ({"model": other} if beside else {})
    torch.save(found, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), source.state_dict())
    notes = capsys.readouterr().err
    assert ("'ema' is loaded; 'model' would fit too" in notes) == beside
    assert "1 tensor beside the weights stays, such as 'ema.n_averaged'" in notes


def test_of_equal_networks_neither_is_noted(source, tmp_path, capsys):
    state = source.state_dict()
    found = {"model": state, "ema": copy.deepcopy(state), "last": state}
    torch.save(found, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), state)
    assert capsys.readouterr().err == ""


def test_the_usual_name_is_preferred_to_another(source, tmp_path, capsys):
    state = source.state_dict()
    other, third = ({k: v + more for k, v in state.items()} for more in (1, 2))
    torch.save({"teacher": other, "momentum": third, "model": state}, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), state)
    assert "'model' is loaded; 'teacher', 'momentum' would fit too" in capsys.readouterr().err


def test_several_networks_without_a_preference_are_refused(source, tmp_path):
    state = source.state_dict()
    other = {k: v + 1 for k, v in state.items()}
    torch.save(
        {"state_dict": starting("encoder_q.", state) | starting("encoder_k.", other)},
        tmp_path / "w.pth",
    )
    assert_refused(
        tmp_path / "w.pth",
        "holds several networks that fit",
        "'state_dict.encoder_q'",
        "'state_dict.encoder_k'",
    )
    torch.save([state, other], tmp_path / "w.pth")
    assert_refused(tmp_path / "w.pth", "holds several networks that fit")


def test_what_lies_beside_the_weights_is_noted(source, tmp_path, capsys):
    state = source.state_dict()
    found = starting("model.", state) | {"loss.weight": torch.ones(10), "queue": torch.ones(3)}
    torch.save({"state_dict": found}, tmp_path / "w.ckpt")
    assert_same(loaded(tmp_path / "w.ckpt"), state)
    assert "2 tensors beside the weights stay, such as 'state_dict.loss.weight'" in (
        capsys.readouterr().err
    )


def test_the_best_of_what_does_not_fit_is_named(source, tmp_path):
    state = source.state_dict()
    path = tmp_path / "w.pth"
    hundred = architectures.create_model("resnet20", 100).state_dict()
    masks = {k: torch.ones_like(v) for k, v in state.items() if v.dim() == 4}
    torch.save({"masks": masks, "net": starting("module.", hundred)}, path)
    assert_refused(
        path,
        "under 'net' are of another architecture",
        "'fc.weight' is (100, 64) there and (10, 64) in CifarResNet",
        "(95 of 97 tensors fit)",
    )
    renamed = {k.replace("bn1", "norm1"): v for k, v in state.items()}
    torch.save({"state_dict": renamed}, path)
    assert_refused(path, "'bn1.weight' is absent there, which has 'norm1.weight'", "tensors fit)")
    torch.save({"a": {"stem.kernel": torch.ones(2), "stem.offset": torch.ones(2)}}, path)
    assert_refused(path, "none of its names", "'a.stem.kernel'", "such as 'conv1.weight'")
    torch.save({"epoch": 3, "best": 0.5, "nothing": [1, {"x": None}]}, path)
    assert_refused(path, "holds no weights: no mapping of names to tensors")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_is_not_run(tmp_path):
    torch.jit.script(nn.Linear(2, 3)).save(tmp_path / "w.pt")
    assert_refused(tmp_path / "w.pt", "TorchScript program", "save its state_dict() instead")


def test_mappings_that_hold_themselves_or_one_another_many_times_end(source, tmp_path):
    inner = {"epoch": 1}
    for _ in range(60):
        inner = {"a": inner, "b": inner}
    inner["itself"] = inner
    torch.save({"history": inner, "model": source.state_dict()}, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), source.state_dict())


def test_the_commands_take_such_files(source, tmp_path, capsys):
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, "net": starting("_orig_mod.", source.state_dict())}, path)
    command = ["eval", "--arch", "resnet20", "--weights", str(path)]
    assert main(command) == 0
    torch.save({"a": source.state_dict(), "b": small().state_dict()}, path)
    assert main(command) == 0
    torch.save({"b": small().state_dict()}, path)
    capsys.readouterr()
    assert main(command) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: the weights in ") and message.count("\n") == 1


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_floats_of_any_width_and_sparse_tensors_fit(source, tmp_path):
    for change in (torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.double):
        state = {
            k: change(v) if v.is_floating_point() else v for k, v in source.state_dict().items()
        }
        torch.save(state, tmp_path / "w.pth")
        assert_same(loaded(tmp_path / "w.pth"), {k: v.to(torch.float32) for k, v in state.items()})
    sparse = {k: v.to_sparse() if v.dim() == 4 else v for k, v in source.state_dict().items()}
    torch.save({"state_dict": sparse}, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), source.state_dict())


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.complex64, torch.bool])
def test_codes_are_no_weights(kind, source, tmp_path):
    """Nor are they where a scale lies beside them, as other quantizers leave it."""
    state = source.state_dict()
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"].to(kind)
    state["layer1.0.conv1.weight_scale"] = torch.ones(16)
    torch.save({"model": state}, tmp_path / "w.pth")
    assert_refused(
        tmp_path / "w.pth",
        f"'layer1.0.conv1.weight' is {kind} there and torch.float32 in CifarResNet",
        "(96 of 97 tensors fit)",
    )


def test_tensors_without_data_are_named(source, tmp_path):
    state = {k: v.to("meta") for k, v in source.state_dict().items()}
    torch.save({"model": state}, tmp_path / "w.pth")
    assert_refused(tmp_path / "w.pth", "cannot be copied")


def test_networks_of_other_widths_differ(source, tmp_path, capsys):
    state = source.state_dict()
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"model": half, "ema": state}, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth"), state)
    assert "'ema' is loaded; 'model' would fit too" in capsys.readouterr().err
