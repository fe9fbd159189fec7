"""Build a local conda channel with this machine's Python and the wheels of pip, setuptools and wheel."""

import argparse
import platform
import sys
import sysconfig
import warnings
from pathlib import Path

import rattler_build

PYTHON = """\
package: {{name: python, version: "{version}"}}
build:
  number: 0
  string: local_0_cpython
  script: |
    mkdir -p $PREFIX/bin $PREFIX/lib $PREFIX/include
    cp -a {home}/bin/python{short} $PREFIX/bin/
    ln -s python{short} $PREFIX/bin/python3; ln -s python{short} $PREFIX/bin/python
    cp -a {home}/lib/libpython{short}.so* {home}/lib/libpython3.so $PREFIX/lib/ 2>/dev/null || true
    cp -a {home}/include/python{short} $PREFIX/include/
    mkdir $PREFIX/lib/python{short}
    tar -C {home}/lib/python{short} --exclude=site-packages --exclude=test --exclude=__pycache__ \\
        --exclude='config-*' --exclude=idlelib --exclude=tkinter --exclude=turtledemo -cf - . \\
        | tar -C $PREFIX/lib/python{short} -xf -
    mkdir $PREFIX/lib/python{short}/site-packages; touch $PREFIX/lib/python{short}/site-packages/README.txt
    grep -rlI "{home}" $PREFIX/lib/python{short} | xargs -r sed -i "s|{home}|$PREFIX|g"
    {tools}/bin/patchelf --set-rpath '$ORIGIN/../lib' $PREFIX/bin/python{short}
  dynamic_linking: {{binary_relocation: false}}
about: {{summary: the interpreter of this machine, license: PSF-2.0}}
"""
WHEEL = """\
package: {{name: {name}, version: "{version}"}}
build: {{number: 0, noarch: python, script: "{tools}/bin/python -m zipfile -e {wheel} $PREFIX/site-packages"}}
requirements: {{run: [python]}}
about: {{summary: {name} from its wheel, license: MIT}}
"""

parser = argparse.ArgumentParser(description=__doc__)
for flag in ("tools", "wheels", "recipes", "channel"):
    parser.add_argument(f"--{flag}", type=Path, required=True)
args = parser.parse_args()
warnings.simplefilter("ignore")
args.channel.mkdir(parents=True, exist_ok=True)

short = sysconfig.get_python_version()
recipes = {
    "python": PYTHON.format(version=platform.python_version(), home=sys.base_prefix, short=short, tools=args.tools)
}
for wheel in sorted(args.wheels.glob("*.whl")):
    name, version = wheel.name.split("-")[:2]
    recipes[name] = WHEEL.format(name=name, version=version, wheel=wheel, tools=args.tools)
for name, text in recipes.items():
    recipe = args.recipes / name / "recipe.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(text)
    rattler_build.build_recipes(
        [str(recipe)], output_dir=str(args.channel), channel=[f"file://{args.channel}"], test="skip"
    )
