"""The cases of the corpus that no editor could write: archives, tables, tensors, pickles, tokenizers, token sets.

`made()` gives every such file and its bytes. They are kept in git beside this module, because a case is read from
there whatever is installed; `python tests/bad_input/make.py` writes them again, and `test_bad_input.py` holds the kept
ones to what is made. Bytes of files written by a library are its version's (`MADE_WITH`): with another version those
are not compared. No pickle here is ever loaded, only written: opcode by opcode, and never by `pickle.dumps`.

Not here: cases that are text, which are kept as they are, and what git cannot keep (`SPECIAL` of the test).
"""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

HERE = Path(__file__).parent
INSTALLED = {"pyarrow": pa.__version__, "zlib": zlib.ZLIB_RUNTIME_VERSION}
MADE_WITH = {"pyarrow": "25.0.1", "zlib": "1.2.13"}
"""What the kept files were written with."""
GOOD = b'{"text": "A boat sails over a quiet river."}\n'
MEGA, GIGA = 1 << 20, 1 << 30
CANARY = "bad_input_canary"
"""What a payload would create in the working directory if it were run."""


def made() -> Iterator[tuple[str, bytes, str]]:
    """(path below this folder, bytes, the library whose version decides them or "")."""
    for name, data in archives():
        yield name, data, "zlib" if name.startswith("gz/") else ""
    for name, data in tables():
        yield name, data, "pyarrow"
    for cases in (tensors(), pickles(), token_sets(), tokenizers(), models()):
        for name, data in cases:
            yield name, data, ""


# Archives


def gz(data: bytes, *, level: int = 9) -> bytes:
    """A gzip member without name and time."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def zst(*blocks: bytes | tuple[bytes, int], head: bytes = b"\x00\x50", end: bool = True) -> bytes:
    """A zstd frame by hand: a block is bytes as they are, or (byte, count), four bytes for up to 128 KB of it."""
    frame = b"\x28\xb5\x2f\xfd" + head
    for number, block in enumerate(blocks, 1):
        last = int(end and number == len(blocks))
        kind, size, body = (0, len(block), block) if isinstance(block, bytes) else (1, block[1], block[0])
        frame += struct.pack("<I", last | kind << 1 | size << 3)[:3] + body
    return frame


def run(byte: bytes, size: int) -> list[tuple[bytes, int]]:
    """Blocks of one byte, `size` times."""
    return [(byte, min(128 << 10, size - at)) for at in range(0, size, 128 << 10)]


def archives() -> Iterator[tuple[str, bytes]]:
    """Packed files that are cut, damaged, packed twice, full of tricks, or far larger than they look."""
    whole, long_line = gz(GOOD * 50), 100 * MEGA
    yield "gz/cut_off.jsonl.gz", whole[:-12]
    yield "gz/cut_in_the_header.jsonl.gz", whole[:5]
    yield "gz/magic_alone.jsonl.gz", whole[:2]
    yield "gz/wrong_checksum.jsonl.gz", whole[:-8] + bytes(4) + whole[-4:]
    yield "gz/wrong_length.jsonl.gz", whole[:-4] + b"\xff\xff\xff\xff"
    yield "gz/flipped_bit.jsonl.gz", whole[:30] + bytes([whole[30] ^ 0x40]) + whole[31:]
    yield "gz/junk_behind_the_end.jsonl.gz", whole + b"junk that is no gzip"
    yield "gz/zeros_behind_the_end.jsonl.gz", whole + bytes(512)
    yield "gz/unknown_method.jsonl.gz", whole[:2] + b"\x07" + whole[3:]
    yield "gz/two_members.jsonl.gz", whole + gz(GOOD)
    yield "gz/second_member_cut_off.jsonl.gz", whole + gz(GOOD)[:-5]
    yield "gz/name_inside_goes_above.jsonl.gz", whole[:3] + b"\x08" + whole[4:10] + b"../../../canary\0" + whole[10:]
    yield "gz/packed_twice.jsonl.gz", gz(whole)
    yield "gz/packed_again_as_zstd.jsonl.gz", gz(zst(GOOD))
    yield "gz/not_packed.jsonl.gz", GOOD
    yield "gz/empty.jsonl.gz", b""
    yield "gz/nothing_inside.jsonl.gz", gz(b"")
    yield "gz/utf16_inside.jsonl.gz", gz(GOOD.decode().encode("utf-16"))
    yield "gz/tar_inside.jsonl.gz", gz(tar(("../../canary.jsonl", GOOD)))
    yield "gz/bomb.jsonl.gz", gz(b'{"text": "') + gz(b"a" * MEGA) * 270
    yield (
        "gz/line_of_100_megabytes.jsonl.gz",
        b"".join((gz(GOOD + b'{"text": "'), gz(b"a" * MEGA) * 100, gz(b'"}\n' + GOOD))),
    )
    yield "zst/cut_off.jsonl.zst", zst(GOOD, GOOD)[:-5]
    yield "zst/no_last_block.jsonl.zst", zst(GOOD, GOOD, end=False)
    yield "zst/magic_alone.jsonl.zst", zst()[:4]
    yield "zst/junk_behind_the_end.jsonl.zst", zst(GOOD) + b"junk that is no zstd"
    yield "zst/reserved_block.jsonl.zst", zst(GOOD, end=False) + b"\x07\0\0"
    yield "zst/block_larger_than_allowed.jsonl.zst", zst((b"a", 2 * MEGA - 1))
    yield "zst/window_of_terabytes.jsonl.zst", zst(GOOD, head=b"\x00\xff")
    yield "zst/size_that_lies_high.jsonl.zst", zst(GOOD, head=b"\xe0" + struct.pack("<Q", 1 << 60))
    yield "zst/size_that_lies_low.jsonl.zst", zst(GOOD, head=b"\x20\x01")
    yield "zst/two_frames.jsonl.zst", zst(GOOD) + zst(GOOD)
    yield "zst/skippable_frame.jsonl.zst", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zst(GOOD)
    yield "zst/packed_twice.jsonl.zst", zst(zst(GOOD))
    yield "zst/not_packed.jsonl.zst", GOOD
    yield "zst/empty.jsonl.zst", b""
    yield "zst/bomb.jsonl.zst", zst(b'{"text": "', *run(b"a", 270 * MEGA))
    yield "zst/line_ends_of_4_megabytes.jsonl.zst", zst(GOOD, *run(b"\n", 4 * MEGA))
    yield "zst/line_of_100_megabytes.jsonl.zst", zst(GOOD, b'{"text": "', *run(b"a", long_line), b'"}\n' + GOOD)
    yield "zst/brackets_of_100_megabytes.jsonl.zst", zst(GOOD, *run(b"[", long_line), b"\n" + GOOD)
    yield "archives/names_that_go_above.tar", tar(("../canary.jsonl", GOOD), ("/tmp/canary.jsonl", GOOD))
    yield "archives/links_and_devices.tar", tar_of_links()
    yield "archives/names_that_go_above.zip", zipped(("../canary.jsonl", GOOD), ("/tmp/canary.jsonl", GOOD))
    yield "archives/empty.zip", zipped()
    yield "archives/packed.jsonl.bz2", b"BZh91AY&SY" + bytes(20)
    yield "archives/packed.jsonl.xz", b"\xfd7zXZ\0" + bytes(20)
    yield "archives/packed.jsonl.lz4", b"\x04\x22\x4d\x18" + bytes(20)
    yield "archives/packed.7z", b"7z\xbc\xaf\x27\x1c" + bytes(20)
    yield "archives/packed.rar", b"Rar!\x1a\x07\x01\0" + bytes(20)
    yield "archives/database.sqlite", b"SQLite format 3\0" + bytes(84)
    yield "archives/page.pdf", b"%PDF-1.7\n" + bytes(40)


def tar(*files: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def tar_of_links() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, kind, target in (("etc", tarfile.SYMTYPE, "/etc"), ("zero", tarfile.CHRTYPE, "")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return out.getvalue()


def zipped(*files: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


# Tables


def parquet_file(columns: dict[str, Any], *, names: list[str] | None = None, **options: Any) -> bytes:
    out, table = io.BytesIO(), pa.table(columns)
    plain: dict[str, Any] = {
        "compression": "none",
        "use_dictionary": False,
        "store_schema": False,
        "write_statistics": False,
        **options,
    }
    parquet.write_table(table.rename_columns(names) if names else table, out, **plain)
    return out.getvalue()


def with_footer(file: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A Parquet file with another footer, whose length is right."""
    size = struct.unpack("<I", file[-8:-4])[0]
    footer = change(file[-8 - size : -8])
    return file[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def arrow_file(
    columns: dict[str, Any], *, names: list[str] | None = None, stream: bool = False, compression: str | None = None
) -> bytes:
    out, table = io.BytesIO(), pa.table(columns)
    table = table.rename_columns(names) if names else table
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema, options=options) as writer:
        writer.write_table(table)
    return out.getvalue()


def tables() -> Iterator[tuple[str, bytes]]:
    """Parquet and Arrow files that are cut, hold other things than rows, or lie about themselves."""
    texts = {"text": [f"A boat sails over river {number}." for number in range(4)]}
    file = parquet_file(texts)
    yield "parquet/cut_off.parquet", file[:-20]
    yield "parquet/cut_at_the_start.parquet", file[40:]
    yield "parquet/magic_alone.parquet", b"PAR1"
    yield "parquet/empty.parquet", b""
    yield "parquet/zeros.parquet", bytes(4096)
    yield "parquet/not_a_table.parquet", GOOD * 3
    yield "parquet/footer_longer_than_the_file.parquet", file[:-8] + struct.pack("<I", 0x7FFFFFFF) + b"PAR1"
    yield "parquet/footer_of_nothing.parquet", file[:-8] + bytes(4) + b"PAR1"
    yield "parquet/footer_of_noise.parquet", with_footer(file, lambda old: bytes(range(256)))
    yield (
        "parquet/footer_of_endless_lists.parquet",
        with_footer(file, lambda old: b"\x15\x02\x19\xfc\xff\xff\xff\xff\x07"),
    )
    yield "parquet/encrypted.parquet", file[:-4] + b"PARE"
    many = varint(2 * 10**12)
    yield (
        "parquet/rows_that_are_not_there.parquet",
        with_footer(file, lambda old: old.replace(b"\x16\x08", b"\x16" + many)),
    )
    yield "parquet/no_rows_though_there_are.parquet", with_footer(file, lambda old: old.replace(b"\x16\x08", b"\x16\0"))
    yield "parquet/page_of_gigabytes.parquet", page_of(parquet_file(texts, compression="snappy"), 0x7FFFFFFF)
    yield "parquet/page_of_less_than_nothing.parquet", page_of(parquet_file(texts, compression="snappy"), -1)
    first = file.index(struct.pack("<I", len(texts["text"][0])) + b"A boat")
    yield "parquet/string_of_gigabytes.parquet", file[:first] + struct.pack("<I", 0x7FFFFFFE) + file[first + 4 :]
    yield "parquet/not_utf8.parquet", file.replace(b"A boat sails over river 2", b"A boat \xff\xfesails over riv 2")
    yield "parquet/no_rows.parquet", parquet_file({"text": pa.array([], pa.string())})
    yield "parquet/other_columns.parquet", parquet_file({"content": ["a boat", "a river"]})
    yield "parquet/two_columns_of_one_name.parquet", parquet_file({"a": ["one"], "b": ["two"]}, names=["text", "text"])
    yield "parquet/wrong_types.parquet", parquet_file({"text": [1, 2]})
    yield "parquet/bytes.parquet", parquet_file({"text": [b"a boat", b"\xff\xfe"]})
    yield "parquet/nulls_and_lists.parquet", parquet_file({"text": [None, "a", "", None, "b", "c"]})
    yield "parquet/nested.parquet", parquet_file({"text": [{"text": ["a", None]}], "when": [None]})
    yield "parquet/not_a_number.parquet", parquet_file({"text": ["a", "b"], "n": [float("nan"), float("inf")]})
    yield (
        "parquet/row_of_20_megabytes.parquet",
        parquet_file({"text": ["a boat", "a" * (20 * MEGA), "a river"]}, compression="zstd"),
    )
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array(["a" * MEGA]))
    yield "parquet/bomb.parquet", parquet_file({"text": repeated}, compression="zstd", use_dictionary=True)
    ipc = arrow_file(texts)
    yield "arrow/cut_off.arrow", ipc[:-40]
    yield "arrow/magic_alone.arrow", b"ARROW1\0\0"
    yield "arrow/empty.arrow", b""
    yield "arrow/zeros.arrow", bytes(4096)
    yield "arrow/not_a_table.arrow", GOOD * 3
    yield "arrow/footer_longer_than_the_file.arrow", ipc[:-10] + struct.pack("<i", 0x7FFFFFFF) + b"ARROW1"
    yield "arrow/footer_of_less_than_nothing.arrow", ipc[:-10] + struct.pack("<i", -5) + b"ARROW1"
    yield "arrow/footer_of_noise.arrow", ipc[:-60] + bytes(range(50)) + ipc[-10:]
    offsets = struct.pack("<5i", *(len("".join(texts["text"][:number])) for number in range(5)))
    where = ipc.index(offsets)
    for name, number in (("beyond_the_data", 0x7FFFFFF0), ("backwards", 3), ("below_zero", -400)):
        changed = ipc[: where + 8] + struct.pack("<i", number) + ipc[where + 12 :]
        yield f"arrow/offsets_that_go_{name}.arrow", changed
    yield "arrow/rows_that_are_not_there.arrow", lengths_of(ipc, 4, 1 << 40)
    yield "arrow/buffer_of_gigabytes.arrow", lengths_of(ipc, len("".join(texts["text"])), 1 << 40)
    packed = arrow_file({"text": ["a boat " * 150]}, compression="zstd")
    yield "arrow/buffer_that_unpacks_to_terabytes.arrow", lengths_of(packed, 1050, 1 << 42)
    yield "arrow/not_utf8.arrow", ipc.replace(b"A boat sails over river 2", b"A boat \xff\xfesails over riv 2")
    yield "arrow/stream.arrow", arrow_file(texts, stream=True)
    yield "arrow/stream_cut_off.arrow", arrow_file(texts, stream=True)[:-60]
    yield "arrow/stream_of_a_gigantic_message.arrow", b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64)
    yield "arrow/two_columns_of_one_name.arrow", arrow_file({"a": ["one"], "b": ["two"]}, names=["text", "text"])
    yield "arrow/wrong_types.arrow", arrow_file({"text": [1.5, float("nan")]})
    keys = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 20, pa.int8()), pa.array(["a boat", "a river"]))
    yield "arrow/key_beyond_the_dictionary.arrow", arrow_file({"text": keys}).replace(b"\0\x01" * 20, b"\0\x65" * 20)
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int16()), pa.array(["a" * 60_000]))
    yield "arrow/bomb.arrow", arrow_file({"text": shared})


def varint(number: int) -> bytes:
    """Thrift's varint."""
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def page_of(file: bytes, size: int) -> bytes:
    """A Parquet file whose first page says that it is `size` bytes when unpacked; the header takes the page's place."""
    assert file[4:7] == b"\x15\x00\x15"  # type, then the size
    end = next(at for at in range(7, 12) if file[at] < 0x80) + 1
    lie = varint((size << 1 ^ size >> 63) & 0xFFFFFFFF)
    return file[:7] + lie + file[end:]


def lengths_of(file: bytes, number: int, lie: int) -> bytes:
    """An Arrow file whose 64-bit numbers of this value say `lie`, in its metadata."""
    return file.replace(struct.pack("<q", number), struct.pack("<q", lie))


# Tensors


def safetensors(header: Any, data: bytes = b"", *, size: int | None = None) -> bytes:
    """A safetensors file by hand; `header` may be bytes, and `size` what its first 8 bytes say of it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + data


def entry(begin: int, end: int, *, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def tensors() -> Iterator[tuple[str, bytes]]:
    """safetensors files with headers that lie."""
    four = bytes(16)
    yield "safetensors/empty.safetensors", b""
    yield "safetensors/magic_alone.safetensors", struct.pack("<Q", 10)
    yield "safetensors/header_of_exabytes.safetensors", safetensors({"a": entry(0, 16)}, four, size=(1 << 64) - 1)
    yield "safetensors/header_of_99_megabytes.safetensors", safetensors({"a": entry(0, 16)}, four, size=99 * MEGA)
    yield "safetensors/header_of_nothing.safetensors", safetensors(b"", four)
    yield "safetensors/header_is_a_list.safetensors", safetensors([1, 2], four)
    yield "safetensors/header_is_no_json.safetensors", safetensors(b"{'a': 1}", four)
    yield "safetensors/header_not_utf8.safetensors", safetensors(b'{"\xff": 1}', four)
    yield "safetensors/header_is_deep.safetensors", safetensors(b'{"a":' + b"[" * 20_000, four)
    yield "safetensors/no_tensors.safetensors", safetensors({})
    yield "safetensors/overlapping.safetensors", safetensors({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24))
    yield "safetensors/beyond_the_end.safetensors", safetensors({"a": entry(0, 1 << 40)}, four)
    yield "safetensors/backwards.safetensors", safetensors({"a": entry(16, 0, shape=[4])}, four)
    yield "safetensors/below_zero.safetensors", safetensors({"a": entry(-16, 0)}, four)
    yield "safetensors/hole.safetensors", safetensors({"a": entry(0, 8), "b": entry(16, 24)}, bytes(24))
    yield "safetensors/data_behind_the_end.safetensors", safetensors({"a": entry(0, 16)}, bytes(64))
    yield "safetensors/shape_that_overflows.safetensors", safetensors({"a": entry(0, 16, shape=[1 << 62, 4])}, four)
    yield "safetensors/shape_below_zero.safetensors", safetensors({"a": entry(0, 16, shape=[-2, -2])}, four)
    yield "safetensors/shape_of_words.safetensors", safetensors({"a": entry(0, 16, shape=["4"])}, four)
    yield "safetensors/shape_of_gigabytes.safetensors", safetensors({"a": entry(0, 16, shape=[GIGA])}, four)
    yield "safetensors/type_that_lies.safetensors", safetensors({"a": entry(0, 16, dtype="F64")}, four)
    yield "safetensors/type_unknown.safetensors", safetensors({"a": entry(0, 16, dtype="F31")}, four)
    yield "safetensors/type_of_whole_numbers.safetensors", safetensors({"a": entry(0, 16, dtype="I32")}, four)
    yield (
        "safetensors/name_twice.safetensors",
        safetensors(
            b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},'
            b' "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
            four,
        ),
    )
    yield (
        "safetensors/metadata_of_numbers.safetensors",
        safetensors({"__metadata__": {"a": 1}, "a": entry(0, 16)}, four),
    )
    yield "safetensors/is_a_pickle.safetensors", payload()


# Pickles


def payload() -> bytes:
    """A pickle that, if it were loaded, would call `os.system` and leave a file."""
    command = f"touch {CANARY}"
    return b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(command)) + command.encode() + b"\x85R."


def torch_zip(pickle: bytes, *records: tuple[str, bytes], folder: str = "archive") -> bytes:
    """A file as `torch.save` writes it: a zip of a pickle and the tensors' bytes."""
    fixed = [("data.pkl", pickle), ("byteorder", b"little"), ("version", b"3\n")]
    return zipped(*((f"{folder}/{name}", data) for name, data in [*fixed, *records]))


def torch_tensor(size: int, stride: int) -> bytes:
    """The pickle of a state dict of one tensor over a storage of four numbers, of whatever size it says."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
    place = b"K\0(\x8a\x08" + struct.pack("<q", size) + b"t(\x8a\x08" + struct.pack("<q", stride) + b"t"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + storage + place + hooks + b"tRs."


def pickles() -> Iterator[tuple[str, bytes]]:
    """What is called .pth, .pt or .bin and runs code when it is opened, or is something else."""
    evil = payload()
    source = f"open('{CANARY}', 'w')".encode()
    by_name = b"\x80\x02cbuiltins\nexec\nX" + struct.pack("<I", len(source)) + source + b"\x85R."
    yield "pickle/runs_a_command.pth", evil
    yield "pickle/runs_a_command.pt", evil
    yield "pickle/runs_a_command.bin", evil
    yield "pickle/runs_python.pth", by_name
    yield "pickle/runs_a_command_in_a_zip.pth", torch_zip(evil)
    yield "pickle/runs_a_command_under_a_key.pth", torch_zip(b"\x80\x02}X\x05\0\0\0model" + evil[2:-1] + b"s.")
    yield "pickle/asks_for_an_attribute.pth", b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\nX\x04\0\0\0name\x86R."
    yield "pickle/imports_by_stack.pth", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    yield "pickle/older_format_with_payload.pth", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03." + evil
    yield "pickle/names_that_go_above.pth", zipped(("../canary", b"x"), ("archive/data.pkl", evil))
    yield "pickle/zip_without_pickle.pth", zipped(("archive/version", b"3\n"))
    yield "pickle/zip_cut_off.pth", torch_zip(b"\x80\x02}.")[:-30]
    yield "pickle/empty.pth", b""
    yield "pickle/text.pth", b"hello\n"
    yield "pickle/zeros.pth", bytes(1024)
    yield "pickle/cut_off.pth", b"\x80\x02}X\x05\0"
    yield "pickle/string_of_gigabytes.pth", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a."
    yield "pickle/memo_of_gigabytes.pth", b"\x80\x02}r\xff\xff\xff\x7f."
    yield "pickle/holds_a_list.pth", torch_zip(b"\x80\x02]K\x01a.")
    yield "pickle/holds_a_number.pth", torch_zip(b"\x80\x02K\x07.")
    yield "pickle/holds_nothing.pth", torch_zip(b"\x80\x02}.")
    yield "pickle/state_of_numbers.pth", torch_zip(b"\x80\x02}X\x01\0\0\0aK\x07s.")
    four = ("data/0", bytes(16))
    yield "pickle/tensor_of_four.pth", torch_zip(torch_tensor(4, 1), four)
    yield "pickle/tensor_beyond_its_storage.pth", torch_zip(torch_tensor(1 << 40, 1), four)
    yield "pickle/tensor_of_one_number_a_billion_times.pth", torch_zip(torch_tensor(1 << 40, 0), four)
    yield "pickle/tensor_below_zero.pth", torch_zip(torch_tensor(-4, 1), four)
    yield "pickle/tensor_without_its_storage.pth", torch_zip(torch_tensor(4, 1))
    yield "pickle/is_its_own_state.pth", torch_zip(b"\x80\x02}q\0X\x05\0\0\0modelh\0s.")
    yield "pickle/deep.pth", torch_zip(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".")


# Token sets and tokenizers


def token_set(
    name: str, *, ids: bytes | None = None, offsets: bytes | None = None, **changes: Any
) -> Iterator[tuple[str, bytes]]:
    """The files of a split of two pretraining documents, with what is changed of them."""
    info = {
        "rows": "pretrain",
        "dtype": "<u2",
        "vocab_size": 600,
        "documents": 2,
        "tokens": 8,
        "trained_tokens": 8,
        "bytes": 20,
        "tokenizer": "0" * 12,
        "end_of_text": 0,
        "longest": 5,
        **changes,
    }
    yield f"tokens/{name}/tokens.json", json.dumps(info).encode() + b"\n"
    yield f"tokens/{name}/tokens.bin", struct.pack("<9H", 0, 9, 8, 0, 7, 6, 5, 4, 0) if ids is None else ids
    yield f"tokens/{name}/docs.idx", struct.pack("<3q", 0, 3, 8) if offsets is None else offsets
    yield f"tokens/{name}/rows.idx", struct.pack("<2q", 0, 1)
    yield f"tokens/{name}/bytes.idx", struct.pack("<2q", 8, 12)


def token_sets() -> Iterator[tuple[str, bytes]]:
    """Token sets whose files disagree with each other."""
    yield from token_set("whole")
    yield from token_set("ids_cut_off", ids=bytes(10))
    yield from token_set("ids_go_on", ids=bytes(40))
    yield from token_set("ids_empty", ids=b"")
    yield from token_set("offsets_cut_off", offsets=bytes(8))
    yield from token_set("offsets_empty", offsets=b"")
    yield from token_set("offsets_begin_late", offsets=struct.pack("<3q", 1, 3, 8))
    yield from token_set("offsets_end_late", offsets=struct.pack("<3q", 0, 3, 1 << 40))
    yield from token_set("offsets_go_back", offsets=struct.pack("<3q", 0, 1 << 40, 8))
    yield from token_set("documents_of_exabytes", documents=1 << 60, tokens=1 << 60)
    yield from token_set("documents_below_zero", documents=-1, tokens=-1)
    yield from token_set("type_of_objects", dtype="O")
    yield from token_set("type_of_text", dtype="<U9999999")
    yield from token_set("type_of_floats", dtype="<f2")
    yield from token_set("type_unknown", dtype="import os")
    yield from token_set("unknown_kind", rows="chats")
    yield from token_set("vocabulary_of_none", vocab_size=0)
    yield from token_set("unknown_key", pickle="x")
    yield from token_set("wrong_types", documents="two", tokens=None)
    for name, data in (("not_json", b"{"), ("empty", b""), ("deep", b"[" * 20_000), ("not_utf8", b'{"rows": "\xff"}')):
        yield f"tokens/info_{name}/tokens.json", data


def tokenizers() -> Iterator[tuple[str, bytes]]:
    """tokenizer.model and tokenizer.json files that are none."""
    yield "tokenizer/empty.model", b""
    yield "tokenizer/noise.model", bytes(range(256)) * 4
    yield "tokenizer/zeros.model", bytes(512)
    yield "tokenizer/piece_of_gigabytes.model", b"\x0a\xff\xff\xff\xff\x07" + b"a" * 20
    yield "tokenizer/no_pieces.model", b"\x12\x00"
    pieces = [b"<unk>", b"<s>", b"</s>", *(b"p%d" % number for number in range(9))]
    plain = b"".join(
        b"\x0a" + bytes([len(b"\x0a" + bytes([len(p)]) + p)]) + b"\x0a" + bytes([len(p)]) + p for p in pieces
    )
    yield "tokenizer/no_unknown_piece.model", plain
    yield "tokenizer/cut_off.model", plain[:-3]
    yield "tokenizer/is_a_pickle.model", payload()
    yield "tokenizer/utf16.json", json.dumps({"model": {"vocab": {}}}).encode("utf-16")
    yield "tokenizer/deep.json", b"[" * 20_000


# Models


SHAPES: dict[str, list[int]] = {
    "model.embed_tokens.weight": [4, 8],
    "model.norm.weight": [8],
    **{f"model.layers.0.{name}_layernorm.weight": [8] for name in ("input", "post_attention")},
    **{f"model.layers.0.self_attn.{name}_proj.weight": [8, 8] for name in "qkvo"},
    **{f"model.layers.0.mlp.{name}_proj.weight": [8, 8] for name in ("gate", "up", "down")},
}
"""Of the model that `hf/*/config.json` and `model/*/config.json` describe."""


def weights(shapes: dict[str, list[int]] = SHAPES, *, number: bytes = bytes(4), dtype: str = "F32") -> bytes:
    """Tensors of these shapes, every number of them the same."""
    header, data = {}, b""
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        header[name] = entry(len(data), len(data) + count * len(number), shape=shape, dtype=dtype)
        data += number * count
    return safetensors(header, data)


def models() -> Iterator[tuple[str, bytes]]:
    """Weights of folders of Hugging Face's (`hf`) and of model directories of ours; their configs are text."""
    whole, tiny = weights(), weights({"a": [4]})
    yield "hf/tensors_of_another/model.safetensors", tiny
    yield "hf/tensors_without_config/model.safetensors", tiny
    yield "hf/not_finite/model.safetensors", weights(number=b"\0\0\xc0\x7f")
    yield "hf/infinite/model.safetensors", weights(number=b"\0\0\x80\x7f")
    yield "hf/stored_as_bytes/model.safetensors", weights(number=b"\1", dtype="I8")
    yield "hf/other_shape/model.safetensors", weights(SHAPES | {"model.norm.weight": [9]})
    yield "hf/one_tensor_more/model.safetensors", weights(SHAPES | {"model.layers.7.evil.weight": [1]})
    yield "hf/layers_that_are_not_there/model.safetensors", whole
    yield "hf/layers_of_billions/model.safetensors", whole
    yield "hf/name_under_a_wrapper_too/model.safetensors", weights(SHAPES | {"module.model.norm.weight": [8]})
    yield "hf/head_that_is_not_the_embedding/model.safetensors", weights(SHAPES | {"lm_head.weight": [4, 9]})
    yield "hf/numbers_without_a_dimension/model.safetensors", weights({name: [] for name in SHAPES})
    yield "hf/layer_of_a_word/model.safetensors", weights(SHAPES | {"model.layers.x.weight": [1]})
    yield "hf/layer_of_a_large_number/model.safetensors", weights(SHAPES | {f"model.layers.{9**20}.weight": [1]})
    yield "hf/wants_to_run_code/model.safetensors", weights(SHAPES | {"model.embed_tokens.weight": [259, 8]})
    yield "hf/pickle_alone/pytorch_model.bin", payload()
    yield "hf/pickle_in_the_index/weights.bin", payload()
    for shard in "ab":
        yield f"hf/one_tensor_in_two_shards/{shard}.safetensors", tiny
    for folder in ("whole", "config_not_json", "config_absurd", "config_of_another", "config_missing"):
        yield f"model/{folder}/model.safetensors", whole
    yield "model/weights_cut_off/model.safetensors", whole[:-100]
    yield "model/weights_are_a_pickle/model.safetensors", payload()
    yield "model/stored_as_whole_numbers/model.safetensors", weights(dtype="I32")
    adapter = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": [2, 8],
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": [8, 2],
    }
    ranks = ("rank_of_billions", "rank_is_a_word", "rank_of_none")
    for folder in (*ranks, "unknown_target", "targets_are_a_number", "deep"):
        yield f"adapter/{folder}/adapter_model.safetensors", weights(adapter)
    yield "adapter/header_of_exabytes/adapter_model.safetensors", safetensors({}, size=(1 << 64) - 1)
    yield "adapter/other_width/adapter_model.safetensors", weights({name: [2, 2] for name in adapter})


if __name__ == "__main__":
    for case, content, _ in made():
        (HERE / case).parent.mkdir(parents=True, exist_ok=True)
        (HERE / case).write_bytes(content)
