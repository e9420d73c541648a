use futures_util::TryStreamExt as _;
use tempfile::TempDir;

use super::*;

fn open(dir: &TempDir) -> Result<Storage, StorageError> {
    Storage::open(&StorageConfig::local(dir.path()))
}

fn staged_files(dir: &TempDir) -> usize {
    fs::read_dir(dir.path().join(STAGING)).unwrap().count()
}

async fn stage(storage: &Storage, bytes: &[u8]) -> Staged {
    let mut writer = storage.stage().unwrap();
    writer.write(bytes).await.unwrap();
    writer.finish().await.unwrap()
}

async fn read(storage: &Storage, key: &str, range: Range<u64>) -> Option<Vec<u8>> {
    let stream = storage.read(key, range).await.unwrap()?;
    let chunks: Vec<_> = stream.try_collect().await.unwrap();
    Some(chunks.concat())
}

#[tokio::test]
async fn a_file_is_hashed_kept_read_and_removed() {
    let dir = TempDir::new().unwrap();
    let storage = open(&dir).unwrap();
    let staged = stage(&storage, b"console.log(\"hi\")\n").await;
    assert_eq!(
        staged.sha256(),
        "jo7h_rwU2GFOH4v2OEo2Qd4wF_pDrQYA1kPSkbFKQrE"
    );
    assert_eq!(staged.md5(), "570b41ba61ade63987d318b0c08e4fa4");
    assert_eq!(staged.size_bytes(), 18);
    storage.keep(&staged, "assets/1/a").await.unwrap();
    assert_eq!(staged_files(&dir), 0, "it was moved, not copied");
    let all = read(&storage, "assets/1/a", 0..18).await.unwrap();
    assert_eq!(all, b"console.log(\"hi\")\n");
    assert_eq!(read(&storage, "assets/1/a", 8..11).await.unwrap(), b"log");
    storage.remove("assets/1/a").await.unwrap();
    storage.remove("assets/1/a").await.unwrap();
    assert_eq!(read(&storage, "assets/1/a", 0..18).await, None);
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let dir = TempDir::new().unwrap();
    let storage = open(&dir).unwrap();
    let staged = stage(&storage, b"").await;
    assert_eq!(
        staged.sha256(),
        "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    );
    storage.keep(&staged, "assets/1/e").await.unwrap();
    assert_eq!(read(&storage, "assets/1/e", 0..0).await.unwrap(), b"");
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let storage = open(&dir).unwrap();
    let mut writer = storage.stage().unwrap();
    writer.write(b"half a").await.unwrap();
    let whole = stage(&storage, b"never kept").await;
    assert_eq!(staged_files(&dir), 2);
    drop((writer, whole));
    assert_eq!(staged_files(&dir), 0);
}

#[tokio::test]
async fn what_a_crash_left_is_gone_after_the_next_start() {
    let dir = TempDir::new().unwrap();
    let storage = open(&dir).unwrap();
    let kept = stage(&storage, b"kept").await;
    storage.keep(&kept, "assets/1/a").await.unwrap();
    drop(storage);
    fs::write(dir.path().join(STAGING).join("half"), b"hal").unwrap();
    let storage = open(&dir).unwrap();
    assert_eq!(staged_files(&dir), 0);
    assert_eq!(read(&storage, "assets/1/a", 0..4).await.unwrap(), b"kept");
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let dir = TempDir::new().unwrap();
    let first = open(&dir).unwrap();
    assert!(matches!(open(&dir), Err(StorageError::InUse(_))));
    drop(first);
    assert!(open(&dir).is_ok());
}

#[tokio::test]
async fn without_a_store_nothing_is_accepted() {
    let answer = Storage::nowhere().stage().unwrap_err();
    assert_eq!(answer.status(), 503);
}
