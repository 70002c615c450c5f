"""Adds to pyproject.toml: the experiments beside the package go into it when it is built."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
EXPERIMENTS = sorted(file.relative_to(HERE) for file in HERE.glob("experiments/**/*.py"))


class BuildWithExperiments(build_py):
    """Copies `experiments/` to `cnn_lab/experiments/`, where an installation looks for them."""

    def run(self):
        """Builds the package, and adds the files; an editable installation reads the checkout's."""
        super().run()
        if not self.editable_mode:
            for file, target in zip(EXPERIMENTS, self._targets(), strict=True):
                self.mkpath(str(Path(target).parent))
                self.copy_file(str(HERE / file), target)

    def get_source_files(self):
        """The files that a source distribution needs."""
        return [*super().get_source_files(), *map(str, EXPERIMENTS)]

    def get_outputs(self, include_bytecode=True):
        """The files that are built."""
        return [*super().get_outputs(include_bytecode), *self._targets()]

    def _targets(self):
        return [str(Path(self.build_lib, "cnn_lab", file)) for file in EXPERIMENTS]


setup(cmdclass={"build_py": BuildWithExperiments})
