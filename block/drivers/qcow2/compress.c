/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/compress.h"

#include <errno.h>
#include <zlib.h>
#ifdef WHARF_ZSTD
#include <zstd.h>
#endif

/* Deflate without a header; the largest window reads what was written with any. */
#define RAW_DEFLATE (-MAX_WBITS)

/* QEMU reads with a window of 4 KiB, so nothing may refer further back. */
#define WRITE_WINDOW (-12)
#define WRITE_MEMORY 9

static int decompress_zlib(void *out, size_t out_length, const void *in, size_t in_length)
{
    z_stream z = {
        .next_in = (void *)in, .avail_in = in_length, .next_out = out, .avail_out = out_length};
    int r = inflateInit2(&z, RAW_DEFLATE);

    if (r != Z_OK) {
        return -ENOMEM;
    }
    r = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    if (r == Z_MEM_ERROR) {
        return -ENOMEM;
    }
    /* With the buffer full it does not matter whether the stream has seen its own end. */
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static size_t compress_zlib(void *out, size_t out_length, const void *in, size_t in_length)
{
    z_stream z = {
        .next_in = (void *)in, .avail_in = in_length, .next_out = out, .avail_out = out_length};
    int r = deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WRITE_WINDOW, WRITE_MEMORY,
                         Z_DEFAULT_STRATEGY);

    if (r != Z_OK) {
        return 0;
    }
    r = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return r == Z_STREAM_END ? out_length - z.avail_out : 0;
}

#ifdef WHARF_ZSTD
static int decompress_zstd(void *out, size_t out_length, const void *in, size_t in_length)
{
    ZSTD_inBuffer from = {.src = in, .size = in_length};
    ZSTD_outBuffer to = {.dst = out, .size = out_length};
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    size_t before, left = 1;

    if (!ctx) {
        return -ENOMEM;
    }
    /* A cluster may have been written as several frames. */
    do {
        before = from.pos + to.pos;
        left = ZSTD_decompressStream(ctx, &to, &from);
    } while (!ZSTD_isError(left) && to.pos < to.size && from.pos + to.pos > before);
    ZSTD_freeDCtx(ctx);
    return !ZSTD_isError(left) && to.pos == to.size ? 0 : -EIO;
}

static size_t compress_zstd(void *out, size_t out_length, const void *in, size_t in_length)
{
    size_t n = ZSTD_compress(out, out_length, in, in_length, ZSTD_CLEVEL_DEFAULT);

    return ZSTD_isError(n) ? 0 : n;
}
#endif

int qcow2_decompress(Qcow2Compression type, void *out, size_t out_length, const void *in,
                     size_t in_length)
{
    switch (type) {
    case QCOW2_COMPRESSION_ZLIB:
        return decompress_zlib(out, out_length, in, in_length);
    case QCOW2_COMPRESSION_ZSTD:
#ifdef WHARF_ZSTD
        return decompress_zstd(out, out_length, in, in_length);
#else
        break;
#endif
    }
    return -ENOTSUP;
}

size_t qcow2_compress(Qcow2Compression type, void *out, size_t out_length, const void *in,
                      size_t in_length)
{
    switch (type) {
    case QCOW2_COMPRESSION_ZLIB:
        return compress_zlib(out, out_length, in, in_length);
    case QCOW2_COMPRESSION_ZSTD:
#ifdef WHARF_ZSTD
        return compress_zstd(out, out_length, in, in_length);
#else
        break;
#endif
    }
    return 0;
}
