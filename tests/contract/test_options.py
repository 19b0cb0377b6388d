"""The table of options, and every place that repeats a name, a default or a help text of it."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import click
import numpy as np
import pytest

from lemmse.client import Client
from lemmse.client.reconstruct import reconstruct as command
from lemmse.contract.choices import CHOICES, MAPS
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.fields import descriptor
from lemmse.contract.options import OPTIONS, Count, Names, Number, OneOf, Option, Options
from lemmse.contract.results import RESULT_MAPS, Result
from lemmse.v1 import reconstruction_pb2 as pb

ROOT = Path(__file__).parents[2]
EDGES = [Client.reconstruct, Client.reconstruct_many]
OTHERS = {"sigma", "noise", "gain", "mask", "nan", "range", "index", "out", "progress", "timeout"}
"""Keywords of the edges that are no options."""

every_option = pytest.mark.parametrize("option", OPTIONS, ids=[option.name for option in OPTIONS])
every_map = pytest.mark.parametrize("name", RESULT_MAPS)


def parameters(function) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in OTHERS
    }


def section(function, title: str) -> str:
    """A section of a numpydoc docstring."""
    found = re.search(rf"{title}\n-+\n(.*?)(\n\n[A-Z]\w+\n-+\n|\Z)", inspect.getdoc(function), re.S)
    assert found, function
    return found[1]


def documented(function) -> list[str]:
    """The parameters that a docstring describes, in its order."""
    heads = re.findall(r"^(\w[\w, \n]*?)(?: :|\n {4})", section(function, "Parameters"), re.M)
    return [name.strip() for head in heads for name in head.split(",")]


def documentation() -> str:
    """The pages that users read."""
    return "\n".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))


@every_option
def test_every_option_has_a_message_field_of_its_kind(option: Option):
    field = descriptor(pb.ReconstructRequest, option.path)
    match option.kind:
        case OneOf(choice) | Names(choice):
            assert CHOICES[field.enum_type.full_name] is choice
            assert field.is_repeated == isinstance(option.kind, Names)
        case Count(most):
            assert field.has_presence
            assert field.type == {2**32 - 1: field.TYPE_UINT32, 2**64 - 1: field.TYPE_UINT64}[most]
        case Number():
            assert field.has_presence
            assert field.type == field.TYPE_DOUBLE


def test_every_field_of_a_request_is_an_option_or_the_measurement():
    message = pb.ReconstructRequest.DESCRIPTOR
    inner = {"topk", "hybrid"}
    paths = {name for name in message.fields_by_name if name not in inner}
    paths |= {
        f"{name}.{field}"
        for name in inner
        for field in message.fields_by_name[name].message_type.fields_by_name
    }
    assert paths == {option.path for option in OPTIONS} | {
        "index",
        "y",
        "sigma",
        "sigma_map",
        "auto",
        "poisson_gaussian",
        "mask",
    }


@pytest.mark.parametrize("edge", EDGES)
def test_the_public_signatures_have_the_options_of_the_table(edge):
    found = {name: parameter.default for name, parameter in parameters(edge).items()}
    assert found == {option.name: () if option.name == "maps" else option.default for option in OPTIONS}


@every_option
@pytest.mark.parametrize("edge", EDGES)
def test_every_option_is_documented_where_it_is_public(option: Option, edge):
    assert option.name in documented(edge)


@every_option
def test_every_option_is_in_the_documentation(option: Option):
    text = documentation()
    flag = option.name.replace("_", "-")
    assert re.search(rf"`{option.name}\b|\b{option.name}=|--{flag}\b", text), option.name


@every_option
def test_every_option_is_a_flag_with_its_help(option: Option):
    (flag,) = [one for one in command.params if one.name == option.name]
    assert isinstance(flag, click.Option)
    assert flag.opts == [f"--{option.name.replace('_', '-')}"]
    assert flag.help == option.help
    context = command.make_context("reconstruct", ["y.png", "--out", "x.png", "--sigma", "0.1"])
    assert context.params[option.name] == option.default
    match option.kind:
        case OneOf(choice):
            assert list(flag.type.choices) == list(choice)
        case Number(low, high, open_low):
            assert (flag.type.min, flag.type.max, flag.type.min_open) == (low, high, open_low)
        case Count():
            assert flag.type.min == 1


@every_option
def test_a_value_of_another_kind_is_refused_by_its_name(option: Option):
    for wrong in (object(), "never", -1, float("nan"), [[]]):
        with pytest.raises(InvalidArgument, match=rf"^{option.name}: expected .*, got "):
            Options(**{option.name: wrong})


def test_options_are_kept_in_their_types():
    options = Options(k=np.int32(7), accuracy_db="60", bandwidth=np.float32(0.5), maps=["ess", "ess"])
    assert (options.k, options.accuracy_db, options.bandwidth) == (7, 60.0, 0.5)
    assert (type(options.k), type(options.accuracy_db), type(options.bandwidth)) == (int, float, float)
    assert options.maps == {"ess"}


def test_options_of_a_call_are_those_of_its_arguments():
    arguments = {option.name: option.default for option in OPTIONS} | {"mode": "exact", "self": None, "y": 1}
    assert Options.of(arguments) == Options(mode="exact")


@every_map
def test_every_result_map_has_its_name_its_field_and_its_documentation(name):
    assert name in MAPS
    field = pb.ReconstructResponse.DESCRIPTOR.fields_by_name[name]
    assert field.message_type.full_name == "lemmse.v1.Tensor"
    assert field.has_presence
    assert f'"{name}"' in section(Client.reconstruct, "Parameters")
    assert re.search(rf"\b{name}\b", documentation())


def test_the_contract_has_no_other_maps():
    assert list(RESULT_MAPS) == list(MAPS)
    tensors = {
        field.name
        for field in pb.ReconstructResponse.DESCRIPTOR.fields
        if field.message_type and field.message_type.name == "Tensor"
    }
    assert tensors == {"image", *MAPS}
    assert {field.name for field in fields(Result)} == tensors | {"diagnostics", "white_level", "black_level"}


@pytest.mark.parametrize("name", CHOICES)
def test_names_cover_an_enumeration(name):
    choice = CHOICES[name]
    enum = pb.DESCRIPTOR.enum_types_by_name[name.rpartition(".")[2]]
    assert [choice.numbers[one] for one in choice] == [value.number for value in enum.values if value.number]
    assert [choice.name(choice.numbers[one]) for one in choice] == list(choice)
    with pytest.raises(ValueError, match="got 99"):
        choice.name(99)
