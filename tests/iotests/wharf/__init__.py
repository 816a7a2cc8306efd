# SPDX-License-Identifier: GPL-2.0-or-later
"""What the iotests share.

A test file begins with `from wharf import *` and holds subclasses of IoTest. A test owns a private
directory (self.dir) and starts daemons with self.wharfd(); whatever it started or mounted is gone
when it ends, however it ends. Everything that waits has a timeout.
"""

from .clients import ClientError, JsonRpcClient, QmpClient, QmpError
from .daemon import Daemon
from .fs import FsTimeout, FsWorker, in_child
from .iotest import IoTest, fuse_test, main, normal_build_only, not_over, timeout
from .tools import TIMEOUT, find_tool, listens_at, run, wait_until

__all__ = ['ClientError', 'Daemon', 'FsTimeout', 'FsWorker', 'IoTest', 'JsonRpcClient', 'QmpClient',
           'QmpError', 'TIMEOUT', 'find_tool', 'fuse_test', 'in_child', 'listens_at', 'main',
           'normal_build_only', 'not_over', 'run', 'timeout', 'wait_until']
