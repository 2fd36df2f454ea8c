//! Checks that the server does not allocate much memory for images whose header states fewer pixels
//! than the image data, or whose compressed metadata would inflate to 67 MB.

use crate::common::{Server, form, odd};

const MIB: u64 = 1 << 20;
/// Number of images in each request: one for each of the server's threads.
const IMAGES: usize = 8;
/// Maximum growth of the server's memory in bytes during a request with small or rejected images,
/// not counting the request's body.
const MOST: u64 = 32 * MIB;
/// Width and height in pixels of the frame of a GIF whose screen is stated as 1x1 pixels. The same
/// number squared is the length in bytes of the zeros that are compressed into PNG metadata: 67 MB.
const SIDE: u16 = 8192;

/// Returns a PNG chunk of type `kind` with the content `body`, including the chunk's length and
/// checksum.
fn chunk(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
    let typed = [&kind[..], body].concat();
    let checksum = typed.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
        })
    });
    let length = (body.len() as u32).to_be_bytes();
    [&length[..], &typed, &(!checksum).to_be_bytes()].concat()
}

/// Returns the file `1x1.png` with `chunks` inserted before its pixel data.
fn png_with(chunks: &[u8]) -> Vec<u8> {
    let file = odd("1x1.png");
    let at = file.windows(4).position(|kind| kind == b"IDAT").unwrap() - 4;
    [&file[..at], chunks, &file[at..]].concat()
}

/// Returns a zlib stream that inflates to at least 67 MB of zeros.
fn zlib_of_zeros() -> Vec<u8> {
    let side = u32::from(SIDE);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().unwrap();
    let zeros = vec![0; usize::from(SIDE) * usize::from(SIDE)];
    writer.write_image_data(&zeros).unwrap();
    writer.finish().unwrap();
    let mut stream = Vec::new();
    let mut rest = &file[8..];
    while let Some((head, body)) = rest.split_at_checked(8) {
        let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        if &head[4..] == b"IDAT" {
            stream.extend(&body[..length]);
        }
        rest = &body[length + 4..];
    }
    stream
}

/// Returns a GIF file whose header states 1x1 pixels and whose frame has 67 million pixels.
fn gif_with_a_larger_frame() -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = gif::Encoder::new(&mut file, SIDE, SIDE, &[0, 0, 0, 9, 9, 9]).unwrap();
    let pixels = vec![0; usize::from(SIDE) * usize::from(SIDE)];
    let frame = gif::Frame::from_indexed_pixels(SIDE, SIDE, pixels, None);
    encoder.write_frame(&frame).unwrap();
    drop(encoder);
    file[6..10].copy_from_slice(&[1, 0, 1, 0]);
    file
}

/// Returns a WebP file whose header states 1x1 pixels and whose bitstream states `side` x `side`
/// pixels. The bitstream comes from `lossy.webp` and only its size is changed.
fn webp_with_a_larger_bitstream(side: u16) -> Vec<u8> {
    let mut bitstream = odd("lossy.webp")[12..].to_vec();
    bitstream[14..16].copy_from_slice(&side.to_le_bytes());
    bitstream[16..18].copy_from_slice(&side.to_le_bytes());
    let header = b"VP8X\x0A\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let length = (4 + header.len() + bitstream.len()) as u32;
    [
        b"RIFF",
        &length.to_le_bytes()[..],
        b"WEBP",
        header,
        &bitstream,
    ]
    .concat()
}

#[test]
fn lying_headers_and_large_metadata_take_no_memory() {
    let profile = [b"profile\0\0", zlib_of_zeros().as_slice()].concat();
    let comment = [b"Comment\0\0", zlib_of_zeros().as_slice()].concat();
    let texts = chunk(*b"tEXt", b"a\0").repeat(40_000);
    let files = [
        (
            "PNG with a profile of 67 MB",
            png_with(&chunk(*b"iCCP", &profile)),
            200,
        ),
        (
            "PNG with a comment of 67 MB",
            png_with(&chunk(*b"zTXt", &comment)),
            200,
        ),
        ("PNG with 40,000 comments", png_with(&texts), 200),
        (
            "GIF with a frame of 67 million pixels",
            gif_with_a_larger_frame(),
            422,
        ),
        (
            "WebP with a bitstream of 81 million pixels",
            webp_with_a_larger_bitstream(9000),
            422,
        ),
        (
            "WebP with a bitstream of 268 million pixels",
            webp_with_a_larger_bitstream(16383),
            422,
        ),
    ];
    let server = Server::start(&["--threads", "8"]);
    let post = |file: &[u8]| {
        let (kind, body) = form(&[("image", file); IMAGES]);
        server.post("/v1/classify", kind, &body).status
    };
    // The first requests also grow the memory arenas of ONNX Runtime, which must not be measured.
    for _ in 0..3 {
        assert_eq!(post(&odd("1x1.png")), 200);
    }
    for (name, file, status) in files {
        server.reset_peak_memory();
        let before = server.memory("VmRSS");
        assert_eq!(post(&file), status, "{name}");
        // The memory of a request body is limited separately (`--body-memory-bytes`), so up to two
        // copies of the body are not counted.
        let body = (IMAGES * file.len()) as u64 * 2;
        let taken = server.memory("VmHWM").saturating_sub(before + body);
        println!("{name}: memory grew by {} MiB", taken / MIB);
        assert!(taken < MOST, "{name}: grew by {} MiB", taken / MIB);
    }
}
