//! The server's settings for one machine that it shares with everything else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::USER;
use crate::files;

const MAX_MEMORY_BYTES: u64 = 4_000_000_000;

/// Writes the server's configuration into `dir`; its path.
pub(super) fn write(dir: &Path, http_port: u16, password: &str) -> io::Result<PathBuf> {
    let users = dir.join("users.xml");
    files::write_private(&users, &users_xml(password))?;
    let path = dir.join("config.xml");
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory_limit_bytes(total_bytes(&meminfo));
    files::write_private(&path, &config_xml(dir, http_port, memory, &users))?;
    Ok(path)
}

/// Pools and caches are small: a handful of inserts a second from one writer,
/// and dashboards that read folded rows.
///
/// The library keeps its port open by a session of the user `default`, which
/// it can give no password. So requests that do not name our user reach no handler.
fn config_xml(dir: &Path, http_port: u16, memory_bytes: u64, users: &Path) -> String {
    let (data, users) = (dir.join("data"), users.display());
    let data = data.display();
    format!(
        "<clickhouse>
<logger><level>warning</level><console>1</console></logger>
<listen_host>127.0.0.1</listen_host>
<http_port>{http_port}</http_port>
<path>{data}/</path>
<tmp_path>{data}/tmp/</tmp_path>
<user_files_path>{data}/user_files/</user_files_path>
<users_config>{users}</users_config>
<max_server_memory_usage>{memory_bytes}</max_server_memory_usage>
<mark_cache_size>67108864</mark_cache_size>
<index_mark_cache_size>16777216</index_mark_cache_size>
<primary_index_cache_size>67108864</primary_index_cache_size>
<uncompressed_cache_size>0</uncompressed_cache_size>
<query_condition_cache_size>16777216</query_condition_cache_size>
<compiled_expression_cache_size>16777216</compiled_expression_cache_size>
<max_concurrent_queries>64</max_concurrent_queries>
<max_thread_pool_size>400</max_thread_pool_size>
<background_pool_size>2</background_pool_size>
<background_schedule_pool_size>4</background_schedule_pool_size>
<merge_tree>
<number_of_free_entries_in_pool_to_lower_max_size_of_merge>0</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
<number_of_free_entries_in_pool_to_execute_mutation>0</number_of_free_entries_in_pool_to_execute_mutation>
<number_of_free_entries_in_pool_to_execute_optimize_entire_partition>0</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
</merge_tree>
<http_handlers><rule>
<headers><X-ClickHouse-User>{USER}</X-ClickHouse-User></headers>
<handler><type>dynamic_query_handler</type><query_param_name>query</query_param_name></handler>
</rule></http_handlers>
</clickhouse>
"
    )
}

fn users_xml(password: &str) -> String {
    let common = "<profile>default</profile><quota>default</quota>\
                  <networks><ip>127.0.0.1</ip></networks>";
    format!(
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users>
<default><password></password>{common}</default>
<{USER}><password>{password}</password>{common}<access_management>1</access_management></{USER}>
</users></clickhouse>
"
    )
}

/// Half of the machine, at most 4 GB; 2 GB where its size is unknown.
fn memory_limit_bytes(total_bytes: Option<u64>) -> u64 {
    total_bytes.map_or(MAX_MEMORY_BYTES / 2, |total| {
        (total / 2).min(MAX_MEMORY_BYTES)
    })
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let total_kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total_kib: u64 = total_kib.split_whitespace().next()?.parse().ok()?;
    Some(total_kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_half_of_the_machine_up_to_4_gb() {
        let total = total_bytes("MemTotal:        2000000 kB\nMemFree: 1 kB\n");
        assert_eq!(memory_limit_bytes(total), 1_024_000_000);
        assert_eq!(memory_limit_bytes(Some(64 << 30)), MAX_MEMORY_BYTES);
        assert_eq!(total_bytes("nothing"), None);
    }
}
