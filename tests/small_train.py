"""`afd_tf.train` with "small" among the names of peers; no test, but its program:

python -m tests.small_train --dataset=digits --peers=small,small ...
"""

import runpy
import signal

from afd_tf.base.command_line import prepare_environment, quick_imports


def main() -> None:
    # As the command does before anything else: threads of TensorFlow inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    with quick_imports():
        prepare_environment(training=True)
    from tests import tiny

    tiny.register_small()
    runpy.run_module("afd_tf.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
