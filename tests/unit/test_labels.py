import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.labels import Label, joined, parse, what_is_wrong


@pytest.mark.parametrize(
    ("name", "make", "model", "body", "year"),
    [
        ("Acura TL Sedan 2012", "Acura", "TL", "Sedan", 2012),
        ("Acura TL Type-S 2008", "Acura", "TL Type-S", None, 2008),
        ("AM General Hummer SUV 2000", "AM General", "Hummer", "SUV", 2000),
        ("Aston Martin V8 Vantage Convertible 2012", "Aston Martin", "V8 Vantage", "Convertible", 2012),
        ("Land Rover Range Rover SUV 2012", "Land Rover", "Range Rover", "SUV", 2012),
        ("Audi 100 Wagon 1994", "Audi", "100", "Wagon", 1994),
        ("BMW 3 Series Wagon 2012", "BMW", "3 Series", "Wagon", 2012),
        ("Chevrolet Corvette ZR1 2012", "Chevrolet", "Corvette ZR1", None, 2012),
        (
            "Chevrolet Silverado 1500 Classic Extended Cab 2007",
            "Chevrolet",
            "Silverado 1500 Classic",
            "Extended Cab",
            2007,
        ),
        ("Chrysler 300 SRT-8 2010", "Chrysler", "300 SRT-8", None, 2010),
        ("Dodge Dakota Club Cab 2007", "Dodge", "Dakota", "Club Cab", 2007),
        ("Dodge Ram Pickup 3500 Quad Cab 2009", "Dodge", "Ram Pickup 3500", "Quad Cab", 2009),
        ("Ford F-150 Regular Cab 2012", "Ford", "F-150", "Regular Cab", 2012),
        ("Ford E-Series Wagon Van 2012", "Ford", "E-Series Wagon", "Van", 2012),
        ("Ford Ranger SuperCab 2011", "Ford", "Ranger", "SuperCab", 2011),
        ("HUMMER H2 SUT Crew Cab 2009", "HUMMER", "H2 SUT", "Crew Cab", 2009),
        ("Infiniti G Coupe IPL 2012", "Infiniti", "G IPL", "Coupe", 2012),
        ("Mercedes-Benz C-Class Sedan 2012", "Mercedes-Benz", "C-Class", "Sedan", 2012),
        ("Ram C/V Cargo Van Minivan 2012", "Ram", "C/V Cargo Van", "Minivan", 2012),
        (
            "Rolls-Royce Phantom Drophead Coupe Convertible 2012",
            "Rolls-Royce",
            "Phantom Drophead Coupe",
            "Convertible",
            2012,
        ),
        ("smart fortwo Convertible 2012", "smart", "fortwo", "Convertible", 2012),
        ("Alfa Romeo Giulia", "Alfa Romeo", "Giulia", None, None),
        ("Ford Coupe 1932", "Ford", "Coupe", "Coupe", 1932),
        ("Peugeot 2008", "Peugeot", "", None, 2008),
        ("Peugeot 2008 SUV 2019", "Peugeot", "2008", "SUV", 2019),
        ("Fiat 5000", "Fiat", "5000", None, None),
        ("2012", "2012", "", None, None),
        ("tench", "tench", "", None, None),
        ("", "", "", None, None),
    ],
)
def test_a_name_is_taken_apart(name: str, make: str, model: str, body: str | None, year: int | None) -> None:
    assert parse(name) == Label(name, make, model, body, year)


@given(st.text(max_size=60))
def test_any_text_keeps_all_its_words(name: str) -> None:
    label = parse(name)
    parts = [label.make, label.model, label.body or "", str(label.year or "")]
    said_twice = label.model == label.body
    assert said_twice or sorted(w.casefold() for w in " ".join(parts).split()) == sorted(
        w.casefold() for w in name.split()
    )


@pytest.mark.shared
def test_every_class_of_stanford_cars(shared: Path) -> None:
    labels = [parse(name) for name in json.loads((shared / "stanford_cars" / "classes.json").read_text())]
    assert len(labels) == 196
    assert len({label.make for label in labels}) == 49
    assert all(label.model and label.year and 1990 < label.year < 2013 for label in labels)
    assert {label.body for label in labels if label.body and " " in label.body} == {
        "Club Cab", "Crew Cab", "Extended Cab", "Quad Cab", "Regular Cab",
    }  # fmt: skip
    assert sorted(label.name for label in labels if label.body is None) == [
        "Acura Integra Type R 2001",
        "Acura TL Type-S 2008",
        "Buick Regal GS 2012",
        "Chevrolet Cobalt SS 2010",
        "Chevrolet Corvette Ron Fellows Edition Z06 2007",
        "Chevrolet Corvette ZR1 2012",
        "Chevrolet HHR SS 2010",
        "Chevrolet TrailBlazer SS 2009",
        "Chrysler 300 SRT-8 2010",
        "Dodge Challenger SRT8 2011",
        "Dodge Charger SRT-8 2009",
        "FIAT 500 Abarth 2012",
        "Jaguar XK XKR 2012",
        "Lamborghini Gallardo LP 570-4 Superleggera 2012",
    ]
    # Nothing is lost: the parts of a name, put together again, are its words.
    for label in labels:
        assert sorted(f"{label.make} {label.model} {label.body or ''} {label.year}".split()) == sorted(
            label.name.split()
        )


def test_a_label_of_parts_is_them_joined() -> None:
    assert joined("BYD", "Seal U", None, 2024) == Label("BYD Seal U 2024", "BYD", "Seal U", None, 2024)
    assert joined("BYD", "Seal").name == "BYD Seal"


@pytest.mark.parametrize("name", ["", "x" * 201, "Kia\nRio", "Kia\0", "Kia \udcff"])
def test_a_name_that_no_class_can_have(name: str) -> None:
    assert what_is_wrong(name)


@pytest.mark.parametrize("name", ["x" * 200, "Citroën\xa0C3", "比亚迪 海豹", "Škoda Enyaq iV 80x 2023"])
def test_a_name_that_a_class_can_have(name: str) -> None:
    assert what_is_wrong(name) is None
